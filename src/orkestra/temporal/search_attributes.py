"""The search attribute that shows the tenant to people and queries: its state, and registering it.

`AddSearchAttributes` is no check: the server answers OK where the attribute exists with another
type, and two additions at once may lose one of them. So the state is looked up, and again after
each addition, until it is what it should be. Calls go to the raw service, so that interceptors
which narrow lists and counts do not matter.
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
"""Name of the attribute where nothing else is configured: `tenantId`."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEYWORD: Final = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
_NOT_FOR_US: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class AttributeState(Enum):
    """What a namespace knows of the search attribute."""

    USABLE = auto()
    """It is a Keyword, and queries may use it."""
    REGISTERED = auto()
    """It is a Keyword, and the part of the server that answers queries has not learnt of it yet."""
    MISSING = auto()
    """It does not exist, as far as this client may see."""
    OTHER_TYPE = auto()
    """It exists with a type that cannot hold the tenant."""


@dataclass(frozen=True)
class SearchAttributeStatus:
    """The state of the search attribute, and how a person would put it."""

    state: AttributeState
    detail: str


def tenant_search_attribute(name: str = DEFAULT_NAME) -> SearchAttributeKey[str]:
    """The typed key of the tenant's search attribute.

    Args:
        name: Name of the attribute, as configured in `tenancy.search_attribute`.

    Returns:
        A Keyword key, for instance for `typed_search_attributes`.

    Raises:
        ConfigurationError: The name cannot stand in a query.
    """
    return SearchAttributeKey.for_keyword(_check_name(name))


async def ensure_search_attributes(
    client: Client, *, name: str = DEFAULT_NAME, timeout: timedelta = timedelta(seconds=30)
) -> None:
    """Register the tenant search attribute and wait until the namespace can use it.

    Does nothing where it is usable already; several processes may do it at once.

    Args:
        client: A client of the namespace to prepare; it needs the operator's rights, except where
            the attribute is usable already.
        name: Name of the attribute, as configured in `tenancy.search_attribute`.
        timeout: How long all of it may take; the server's cache may need some seconds to learn of
            a new attribute.

    Raises:
        SearchAttributeError: It exists with another type, or the server refuses to add it
            (Temporal Cloud does: the message says which command to run instead).
        TimeoutError: It did not become usable in time.
        ConfigurationError: The name cannot stand in a query.
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
    """Find out whether the namespace can use the search attribute.

    Where the client may not list search attributes (Temporal Cloud, a tenant's client), a count
    that only a Keyword attribute allows has to tell.

    Args:
        client: A client of the namespace.
        name: Name of the attribute.
        timeout: Deadline of each of the two calls.
        retry: Whether the SDK retries calls that fail in passing.

    Raises:
        RPCError: The server could not be asked.
        ForbiddenOperationError: The client is a tenant's and may ask neither way.
    """
    client = unguarded_client(client)
    try:
        registered = await _registered_type(client, name, timeout=timeout, retry=retry)
    except RPCError as error:
        if error.status not in _NOT_FOR_US:
            raise
    except ForbiddenOperationError:
        pass
    else:
        if registered is None:
            return SearchAttributeStatus(AttributeState.MISSING, f"{name!r} is missing")
        if registered != _KEYWORD:
            detail = f"{name!r} has type {_type_name(registered)}, and must be Keyword"
            return SearchAttributeStatus(AttributeState.OTHER_TYPE, detail)
        if await _why_unusable(client, name, timeout=timeout, retry=retry) is None:
            return SearchAttributeStatus(AttributeState.USABLE, f"{name!r} is a Keyword")
        detail = f"{name!r} is registered, but queries cannot use it yet"
        return SearchAttributeStatus(AttributeState.REGISTERED, detail)
    reason = await _why_unusable(client, name, timeout=timeout, retry=retry)
    if reason is None:
        return SearchAttributeStatus(AttributeState.USABLE, f"{name!r} is a Keyword")
    detail = f"{name!r} is missing or no Keyword ({reason})"
    return SearchAttributeStatus(AttributeState.MISSING, detail)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        msg = f"search attribute {name!r} is malformed: use letters, digits and '_', a letter first"
        raise ConfigurationError(msg)
    return name


async def _make_usable(client: Client, name: str, timeout: timedelta) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            status = await look_up_search_attribute(client, name=name, timeout=timeout, retry=True)
        except RPCError as error:
            raise _refused("look up", client, name, error) from error
        if status.state is AttributeState.USABLE:
            return
        if status.state is AttributeState.OTHER_TYPE:
            msg = (
                f"search attribute {status.detail} in namespace {client.namespace!r}: remove it, or"
                " configure another name as tenancy.search_attribute"
            )
            raise SearchAttributeError(msg)
        if status.state is AttributeState.MISSING:
            await _add(client, name, timeout)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _registered_type(
    client: Client, name: str, *, timeout: timedelta, retry: bool
) -> IndexedValueType.ValueType | None:
    found = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), retry=retry, timeout=timeout
    )
    # Those of the system carry what the system writes, and cannot be registered over.
    return found.custom_attributes.get(name)


async def _why_unusable(
    client: Client, name: str, *, timeout: timedelta, retry: bool
) -> str | None:
    # No other type of attribute has this operator.
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


async def _add(client: Client, name: str, timeout: timedelta) -> None:
    request = AddSearchAttributesRequest(
        namespace=client.namespace, search_attributes={name: _KEYWORD}
    )
    try:
        await client.operator_service.add_search_attributes(request, retry=True, timeout=timeout)
    except RPCError as error:
        # Somebody else may have been faster; the next look-up tells.
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise _refused("add", client, name, error) from error


def _refused(action: str, client: Client, name: str, error: RPCError) -> SearchAttributeError:
    namespace = client.namespace
    answer = f"{error.status.name}: {error.message}"
    advice = ""
    if error.status in _NOT_FOR_US:
        advice = (
            f"; on Temporal Cloud run `tcld namespace search-attributes add --namespace {namespace}"
            f" --sa {name}=Keyword`, elsewhere let an operator run `temporal operator"
            f" search-attribute create --namespace {namespace} --name {name} --type Keyword`"
        )
    msg = f"cannot {action} search attribute {name!r} in namespace {namespace!r}: {answer}{advice}"
    return SearchAttributeError(msg)


def _type_name(value: IndexedValueType.ValueType) -> str:
    name = IndexedValueType.Name(value).removeprefix("INDEXED_VALUE_TYPE_")
    return "".join(word.capitalize() for word in name.split("_"))
