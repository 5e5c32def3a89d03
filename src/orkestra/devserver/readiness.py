"""Whether a server that says it has started can be used."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orkestra.devserver.ports import HOST
from orkestra.errors import DevServerError

_CALL_TIMEOUT: Final = timedelta(seconds=2)
_KEYWORD: Final = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def why_not_usable(
    address: str, *, namespaces: Sequence[str], search_attribute: str, ui_port: int | None
) -> Exception | None:
    """Try all that the users of a server count on; None where all of it works.

    A database file of an earlier server may lack the search attribute: it is added.

    Args:
        address: `host:port` of the server.
        namespaces: Namespaces that must exist and be searchable.
        search_attribute: Keyword search attribute that each of them must have.
        ui_port: Port on which the web UI must listen, if there is one.

    Raises:
        DevServerError: The search attribute exists with another type.
    """
    try:
        client = await Client.connect(address)
        if not await client.service_client.check_health(timeout=_CALL_TIMEOUT):
            return DevServerError("its health check does not answer SERVING")
        for namespace in namespaces:
            await _have_attribute(client, namespace, search_attribute)
            await _search(client, namespace, f"{search_attribute} = 'nobody'")
        if ui_port is not None:
            await _knock(ui_port)
    except (RPCError, RuntimeError, OSError) as error:
        return error
    return None


async def _have_attribute(client: Client, namespace: str, name: str) -> None:
    present = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=namespace), timeout=_CALL_TIMEOUT
    )
    match present.custom_attributes.get(name):
        case None:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=namespace, search_attributes={name: _KEYWORD}),
                timeout=_CALL_TIMEOUT,
            )
        case kind if kind != _KEYWORD:
            msg = (
                f"search attribute {name!r} of namespace {namespace!r} in this database is of type"
                f" {IndexedValueType.Name(kind)}, not Keyword: use another database file"
            )
            raise DevServerError(msg)
        case _:
            pass


async def _search(client: Client, namespace: str, query: str) -> None:
    await client.workflow_service.count_workflow_executions(
        CountWorkflowExecutionsRequest(namespace=namespace, query=query), timeout=_CALL_TIMEOUT
    )


async def _knock(port: int) -> None:
    _, writer = await asyncio.open_connection(HOST, port)
    writer.close()
    await writer.wait_closed()
