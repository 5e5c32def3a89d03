"""Registering the tenant's search attribute on a real server, alone and beside others."""

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    AddSearchAttributesResponse,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from orkestra.devserver import DevServer
from orkestra.errors import ConfigurationError, ForbiddenOperationError, SearchAttributeError
from orkestra.temporal.search_attributes import ensure_search_attributes, tenant_search_attribute
from tests.support.fake_service import FakeServiceClient, refuse, status, with_answers
from tests.support.names import Fresh
from tests.support.waiting import until

KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
TEXT = IndexedValueType.INDEXED_VALUE_TYPE_TEXT
SHORT = timedelta(seconds=0.4)


@pytest.fixture
async def bare_client(dev_server: DevServer, fresh: Fresh) -> Client:
    """A client of a namespace that has no search attributes of its own."""
    namespace = f"bare-{fresh.suffix}"
    client = await Client.connect(dev_server.address, namespace=namespace)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=namespace,
            workflow_execution_retention_period=Duration(seconds=24 * 3600),
        )
    )

    async def is_known() -> bool:
        try:
            await client.count_workflows()
        except RPCError:
            return False
        return True

    await until(is_known)
    return client


async def registered(client: Client) -> dict[str, int]:
    found = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return dict(found.custom_attributes)


async def add(client: Client, **attributes: IndexedValueType.ValueType) -> None:
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=client.namespace, search_attributes=attributes)
    )


async def test_a_missing_attribute_is_registered_and_usable_at_once(
    bare_client: Client,
) -> None:
    assert await registered(bare_client) == {}

    await ensure_search_attributes(bare_client)

    assert await registered(bare_client) == {"tenantId": KEYWORD}
    assert (await bare_client.count_workflows("tenantId = 'acme'")).count == 0


async def test_ensuring_twice_changes_nothing(bare_client: Client) -> None:
    await ensure_search_attributes(bare_client)
    again = with_answers(bare_client)

    await ensure_search_attributes(again)

    assert isinstance(again.service_client, FakeServiceClient)
    assert again.service_client.calls == ["list_search_attributes", "count_workflow_executions"]


async def test_twenty_processes_may_ensure_at_once(
    dev_server: DevServer, bare_client: Client
) -> None:
    namespace = bare_client.namespace
    clients = [await Client.connect(dev_server.address, namespace=namespace) for _ in range(20)]

    await asyncio.gather(*(ensure_search_attributes(client) for client in clients))

    assert await registered(bare_client) == {"tenantId": KEYWORD}


async def test_two_names_ensured_at_once_are_both_there(bare_client: Client) -> None:
    await asyncio.gather(
        ensure_search_attributes(bare_client, name="one"),
        ensure_search_attributes(bare_client, name="two"),
    )

    assert await registered(bare_client) == {"one": KEYWORD, "two": KEYWORD}


async def test_an_addition_that_the_server_lost_is_made_again(bare_client: Client) -> None:
    lost: list[Message] = []

    def lose_the_first(request: Message) -> Message | None:
        if lost:
            return None
        lost.append(request)
        return AddSearchAttributesResponse()

    await ensure_search_attributes(with_answers(bare_client, add_search_attributes=lose_the_first))

    assert len(lost) == 1
    assert await registered(bare_client) == {"tenantId": KEYWORD}


async def test_another_type_is_an_error_although_the_server_answers_ok(
    bare_client: Client,
) -> None:
    await add(bare_client, tenantId=TEXT)
    await add(bare_client, tenantId=KEYWORD)  # answers OK, and changes nothing

    with pytest.raises(SearchAttributeError, match=r"'tenantId' has type Text, .* must be Keyword"):
        await ensure_search_attributes(bare_client)

    assert await registered(bare_client) == {"tenantId": TEXT}


async def test_a_reserved_name_is_refused(bare_client: Client) -> None:
    with pytest.raises(SearchAttributeError, match="reserved by system"):
        await ensure_search_attributes(bare_client, name="WorkflowId")


async def test_a_full_namespace_is_an_error_with_the_servers_message(
    bare_client: Client,
) -> None:
    await add(bare_client, **{f"attribute{number}": KEYWORD for number in range(10)})

    with pytest.raises(SearchAttributeError, match="more than 10 search attribute"):
        await ensure_search_attributes(bare_client)


async def test_a_missing_namespace_is_refused_by_name(dev_server: DevServer) -> None:
    client = await Client.connect(dev_server.address, namespace="nowhere")

    with pytest.raises(SearchAttributeError, match="Namespace nowhere is not found"):
        await ensure_search_attributes(client)


async def test_a_refusal_names_the_commands_to_run_instead(bare_client: Client) -> None:
    denied = refuse(status(RPCStatusCode.PERMISSION_DENIED, "Request unauthorized."))
    cloud = with_answers(bare_client, add_search_attributes=denied, list_search_attributes=denied)

    with pytest.raises(SearchAttributeError) as refused:
        await ensure_search_attributes(cloud)

    message = str(refused.value)
    namespace = bare_client.namespace
    assert "PERMISSION_DENIED" in message
    assert (
        f"tcld namespace search-attributes add --namespace {namespace} --sa tenantId=Keyword"
        in message
    )
    assert (
        f"temporal operator search-attribute create --namespace {namespace}"
        " --name tenantId --type Keyword" in message
    )


async def test_if_listing_is_not_permitted_a_usable_attribute_is_enough(
    bare_client: Client,
) -> None:
    await ensure_search_attributes(bare_client)
    denied = refuse(status(RPCStatusCode.PERMISSION_DENIED, "Request unauthorized."))

    await ensure_search_attributes(
        with_answers(bare_client, add_search_attributes=denied, list_search_attributes=denied)
    )


async def test_if_listing_is_not_permitted_a_text_attribute_is_still_an_error(
    bare_client: Client,
) -> None:
    await add(bare_client, tenantId=TEXT)
    denied = refuse(status(RPCStatusCode.PERMISSION_DENIED, "Request unauthorized."))

    with pytest.raises(SearchAttributeError):
        await ensure_search_attributes(
            with_answers(bare_client, add_search_attributes=denied, list_search_attributes=denied)
        )


async def test_a_tenants_client_is_not_permitted_to_register(bare_client: Client) -> None:
    forbidden = refuse(ForbiddenOperationError("a tenant's client may not do this"))
    bound = with_answers(
        bare_client, add_search_attributes=forbidden, list_search_attributes=forbidden
    )

    with pytest.raises(ForbiddenOperationError):
        await ensure_search_attributes(bound)


async def test_an_attribute_that_stays_unusable_times_out(
    bare_client: Client,
) -> None:
    unknown = refuse(status(RPCStatusCode.INVALID_ARGUMENT, "invalid search attribute"))
    client = with_answers(bare_client, count_workflow_executions=unknown)

    with pytest.raises(TimeoutError, match=r"'tenantId' did not become usable .* within 0.4 s"):
        await ensure_search_attributes(client, timeout=SHORT)


@pytest.mark.parametrize("name", ["", "tenant-id", "tenant id", "1st", "x' OR '1", "tenantId\n"])
async def test_a_malformed_name_is_refused_before_anything_is_sent(
    bare_client: Client, name: str
) -> None:
    client = with_answers(bare_client)

    with pytest.raises(ConfigurationError, match="malformed"):
        await ensure_search_attributes(client, name=name)

    assert isinstance(client.service_client, FakeServiceClient)
    assert client.service_client.calls == []


async def test_the_typed_key_starts_a_workflow_that_a_query_finds(
    raw_client: Client, fresh: Fresh
) -> None:
    tenant = fresh.tenant()
    attributes = TypedSearchAttributes([SearchAttributePair(tenant_search_attribute(), tenant)])
    handle = await raw_client.start_workflow(
        "Nobody",
        id=fresh.workflow_id(),
        task_queue=fresh.task_queue(),
        search_attributes=attributes,
    )

    async def found() -> list[str]:
        return [row.id async for row in raw_client.list_workflows(f"tenantId = '{tenant}'")]

    assert await until(found) == [fresh.workflow_id()]
    await handle.terminate()


def test_the_typed_key_refuses_a_malformed_name() -> None:
    with pytest.raises(ConfigurationError, match="malformed"):
        tenant_search_attribute("tenant id")
