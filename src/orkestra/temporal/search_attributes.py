"""Search attribute that shows the tenant to people and queries: its state, and its registration.

`AddSearchAttributes` proves nothing: the server answers OK if the attribute exists with another
type, and one of two concurrent additions may be lost. So the state is looked up first, and again
after each addition, until the attribute is usable. Calls go to the raw service, below interceptors
that narrow lists and counts.
"""

import asyncio
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from orkestra.config import TenancySettings
from orkestra.errors import ConfigurationError, ForbiddenOperationError, SearchAttributeError
from orkestra.temporal.guard import unguarded_client

DEFAULT_NAME: Final = TenancySettings().search_attribute
"""Name of the attribute unless configured otherwise: `tenantId`."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEYWORD: Final = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
# Temporal Cloud has no operator service for its users.
_NOT_PERMITTED: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0


class AttributeState(Enum):
    """State of the search attribute in a namespace."""

    USABLE = auto()
    """A Keyword that queries can use."""
    REGISTERED = auto()
    """A Keyword that the server's visibility store does not know yet."""
    MISSING = auto()
    """Not found, as far as this client can see."""
    OTHER_TYPE = auto()
    """Registered with a type that cannot hold the tenant."""


@dataclass(frozen=True)
class SearchAttributeStatus:
    """State of the search attribute, and its description for people."""

    state: AttributeState
    detail: str


def tenant_search_attribute(name: str = DEFAULT_NAME) -> SearchAttributeKey[str]:
    """Return the typed key of the tenant search attribute.

    Args:
        name: Name of the attribute, as configured in `tenancy.search_attribute`.

    Returns:
        A Keyword key, for instance for `typed_search_attributes`.

    Raises:
        ConfigurationError: The name is malformed.
    """
    return SearchAttributeKey.for_keyword(_check_name(name))


async def ensure_search_attributes(
    client: Client, *, name: str = DEFAULT_NAME, timeout: timedelta = timedelta(seconds=30)
) -> None:
    """Register the tenant search attribute and wait until the namespace can use it.

    Does nothing if it is usable already. Several processes may call it at once.

    Args:
        client: A client of the namespace to prepare. It needs the rights of an operator, unless
            the attribute is usable already.
        name: Name of the attribute, as configured in `tenancy.search_attribute`.
        timeout: Time limit for everything; the server's cache may need some seconds to learn of a
            new attribute.

    Raises:
        SearchAttributeError: The attribute exists with another type, or the server refuses to add
            it (Temporal Cloud does: the message says which command to run instead).
        TimeoutError: The attribute did not become usable in time.
        ConfigurationError: The name is malformed.
    """
    _check_name(name)
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            await _make_usable(unguarded_client(client), name, timeout)
    except TimeoutError as error:
        msg = (
            f"search attribute {name!r} did not become usable in namespace {client.namespace!r}"
            f" within {timeout.total_seconds():g} s: try again"
        )
        raise TimeoutError(msg) from error


async def look_up_search_attribute(
    client: Client, *, name: str = DEFAULT_NAME, timeout: timedelta, retry: bool = False
) -> SearchAttributeStatus:
    """Look up the state of the search attribute in the client's namespace.

    If the client may not list search attributes (Temporal Cloud, a tenant's client), a count that
    only a Keyword attribute allows decides.

    Args:
        client: A client of the namespace.
        name: Name of the attribute.
        timeout: Time limit for each of the two calls.
        retry: Let the SDK retry transient failures.

    Raises:
        RPCError: The server did not answer.
        ForbiddenOperationError: The client is bound to a tenant and may make neither call.
    """
    client = unguarded_client(client)
    may_list, registered = True, None
    try:
        registered = await _registered_type(client, name, timeout=timeout, retry=retry)
    except ForbiddenOperationError:
        may_list = False
    except RPCError as error:
        if error.status not in _NOT_PERMITTED:
            raise
        may_list = False
    if may_list and registered is None:
        return SearchAttributeStatus(AttributeState.MISSING, f"{name!r} is missing")
    if registered is not None and registered != _KEYWORD:
        kind = IndexedValueType.Name(registered).removeprefix("INDEXED_VALUE_TYPE_")
        kind = kind.title().replace("_", "")
        detail = f"{name!r} has type {kind}, and must be Keyword"
        return SearchAttributeStatus(AttributeState.OTHER_TYPE, detail)
    problem = await _query_problem(client, name, timeout=timeout, retry=retry)
    if problem is None:
        return SearchAttributeStatus(AttributeState.USABLE, f"{name!r} is a Keyword")
    if may_list:
        detail = f"{name!r} is registered, but queries cannot use it yet"
        return SearchAttributeStatus(AttributeState.REGISTERED, detail)
    detail = f"{name!r} is missing or no Keyword ({problem})"
    return SearchAttributeStatus(AttributeState.MISSING, detail)


async def add_search_attribute(client: Client, *, name: str, timeout: timedelta) -> None:
    """Ask the server to register a Keyword search attribute, without waiting for it.

    Args:
        client: A client of the namespace, with the rights of an operator.
        name: Name of the attribute.
        timeout: Time limit for the call.

    Raises:
        RPCError: The server refused.
    """
    request = AddSearchAttributesRequest(
        namespace=client.namespace, search_attributes={name: _KEYWORD}
    )
    try:
        await client.operator_service.add_search_attributes(request, retry=True, timeout=timeout)
    except RPCError as error:
        # Another process may have added it first; the next look-up decides.
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        msg = f"search attribute {name!r} is malformed: use letters, digits and '_', a letter first"
        raise ConfigurationError(msg)
    return name


async def _make_usable(client: Client, name: str, timeout: timedelta) -> None:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        action = "look up"
        try:
            status = await look_up_search_attribute(client, name=name, timeout=timeout, retry=True)
            if status.state is AttributeState.USABLE:
                return
            if status.state is AttributeState.MISSING:
                action = "add"
                await add_search_attribute(client, name=name, timeout=timeout)
        except RPCError as error:
            raise _refused(action, client, name, error) from error
        if status.state is AttributeState.OTHER_TYPE:
            msg = (
                f"search attribute {status.detail} in namespace {client.namespace!r}: remove it, or"
                " configure another name as tenancy.search_attribute"
            )
            raise SearchAttributeError(msg)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _registered_type(
    client: Client, name: str, *, timeout: timedelta, retry: bool
) -> IndexedValueType.ValueType | None:
    found = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), retry=retry, timeout=timeout
    )
    # The system's own attributes hold what the system writes, and cannot be replaced.
    return found.custom_attributes.get(name)


async def _query_problem(
    client: Client, name: str, *, timeout: timedelta, retry: bool
) -> str | None:
    # Only a Keyword attribute has this operator.
    query = f"{name} STARTS_WITH 'orkestra'"
    try:
        await client.workflow_service.count_workflow_executions(
            CountWorkflowExecutionsRequest(namespace=client.namespace, query=query),
            retry=retry,
            timeout=timeout,
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        return error.message
    return None


def _refused(action: str, client: Client, name: str, error: RPCError) -> SearchAttributeError:
    namespace = client.namespace
    answer = f"{error.status.name}: {error.message}"
    advice = ""
    if error.status in _NOT_PERMITTED:
        advice = (
            f"; on Temporal Cloud run `tcld namespace search-attributes add --namespace {namespace}"
            f" --sa {name}=Keyword`, elsewhere ask an operator to run `temporal operator"
            f" search-attribute create --namespace {namespace} --name {name} --type Keyword`"
        )
    msg = f"cannot {action} search attribute {name!r} in namespace {namespace!r}: {answer}{advice}"
    return SearchAttributeError(msg)
