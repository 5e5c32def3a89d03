"""Creating clients from the configuration, and starting workflows with them.

Both return the SDK's own objects: `Client` and `WorkflowHandle`.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, TypeVar, TypeVarTuple, Unpack, overload

from temporalio.client import Client, Interceptor, Plugin, WorkflowHandle
from temporalio.common import (
    Priority,
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    VersioningOverride,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.converter import DataConverter

from orkestra.config import OrkestraConfig
from orkestra.errors import ConfigurationError, SearchAttributeError, TenantMismatchError
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.temporal.plugin import plugin_of, with_plugin
from orkestra.tenancy import AllTenants, check_id

_Workflow = TypeVar("_Workflow")
_Result = TypeVar("_Result")
_Args = TypeVarTuple("_Args")

PlainSearchAttribute = str | bool | int | float | datetime | Sequence[str]
"""Value of a search attribute; its type determines the attribute's."""

_KEYS: Final[tuple[tuple[type, Callable[[str], SearchAttributeKey[Any]]], ...]] = (
    (str, SearchAttributeKey.for_keyword),
    (bool, SearchAttributeKey.for_bool),
    (int, SearchAttributeKey.for_int),
    (float, SearchAttributeKey.for_float),
    (datetime, SearchAttributeKey.for_datetime),
)


class StartOptions(TypedDict, total=False):
    """The other options of `temporalio.client.Client.start_workflow`, passed on as they are."""

    execution_timeout: timedelta | None
    run_timeout: timedelta | None
    task_timeout: timedelta | None
    id_reuse_policy: WorkflowIDReusePolicy
    id_conflict_policy: WorkflowIDConflictPolicy
    retry_policy: RetryPolicy | None
    cron_schedule: str
    static_summary: str | None
    static_details: str | None
    start_delay: timedelta | None
    start_signal: str | None
    start_signal_args: Sequence[Any]
    rpc_metadata: Mapping[str, str | bytes]
    rpc_timeout: timedelta | None
    request_eager_start: bool
    priority: Priority
    versioning_override: VersioningOverride | None


async def create_temporal_client(
    config: OrkestraConfig | None = None,
    *,
    namespace: str | None = None,
    tenant: str | AllTenants | None = None,
    manager: TemporalConnectionManager | None = None,
    plugins: Sequence[Plugin] = (),
    interceptors: Sequence[Interceptor] = (),
    data_converter: DataConverter = DataConverter.default,
) -> Client:
    """Connect to Temporal and return the SDK's own client.

    Args:
        config: The configuration; None loads it as `OrkestraConfig.load()` does. With a manager,
            the manager's is used.
        namespace: None means the tenant's own where the directory gives it one, else
            `temporal.namespace`.
        tenant: The tenant that the client is bound to; None means that each call acts for
            `current_tenant()`; `ALL_TENANTS` makes an operator's client.
        manager: Shares its connection with other clients; without one, the connection lives as
            long as the client.
        plugins: More plugins; Orkestra's own comes last, next to the server.
        interceptors: More client interceptors.
        data_converter: Converter for arguments and results.

    Returns:
        A connected client.

    Raises:
        ConnectionFailedError: The service could not be reached within `connect_deadline`.
        ConfigurationError: The configuration is wrong.
        InvalidTenantError: The tenant is malformed.
        UnknownTenantError: The directory does not know the tenant.
        TenantMismatchError: The directory places the tenant in another namespace.
        DirectoryUnavailableError: The directory gave no answer.
    """
    if manager is None:
        # To the manager, so that they take part in opening the connection.
        manager = TemporalConnectionManager(config, plugins=plugins)
        plugins = ()
    return await manager.get_client(
        namespace=namespace,
        tenant=tenant,
        plugins=plugins,
        interceptors=interceptors,
        data_converter=data_converter,
    )


@overload
async def start_workflow(
    client: Client,
    workflow: Callable[[_Workflow, *_Args], Awaitable[_Result]],
    *args: *_Args,
    task_queue: str,
    workflow_id: str | None = None,
    memo: Mapping[str, Any] | None = None,
    search_attributes: TypedSearchAttributes | Mapping[str, PlainSearchAttribute] | None = None,
    tenant: str | None = None,
    **options: Unpack[StartOptions],
) -> WorkflowHandle[_Workflow, _Result]: ...


@overload
async def start_workflow(
    client: Client,
    workflow: str,
    *args: Any,
    task_queue: str,
    workflow_id: str | None = None,
    memo: Mapping[str, Any] | None = None,
    search_attributes: TypedSearchAttributes | Mapping[str, PlainSearchAttribute] | None = None,
    tenant: str | None = None,
    **options: Unpack[StartOptions],
) -> WorkflowHandle[Any, Any]: ...


async def start_workflow(  # type: ignore[misc]  # mypy: *args of any type take *_Args, too
    client: Client,
    workflow: Callable[..., Awaitable[Any]] | str,
    *args: Any,
    task_queue: str,
    workflow_id: str | None = None,
    memo: Mapping[str, Any] | None = None,
    search_attributes: TypedSearchAttributes | Mapping[str, PlainSearchAttribute] | None = None,
    tenant: str | None = None,
    **options: Unpack[StartOptions],
) -> WorkflowHandle[Any, Any]:
    """Start a workflow for a tenant and return the SDK's handle to it.

    Args:
        client: Any client of Orkestra, bound to a tenant or not.
        workflow: The workflow's run method, or its name.
        args: Arguments of the run method.
        task_queue: Queue of the workers that serve it; the directory may send a tenant's work to
            a queue of its own instead.
        workflow_id: The tenant's own ID of 1 to 900 bytes; None makes a UUID.
        memo: Notes shown in lists.
        search_attributes: Typed, or plain values whose type determines the attribute's: text is a
            Keyword, a sequence of texts a KeywordList.
        tenant: The tenant, where neither the client nor the running code has one. If the directory
            gives it a namespace of its own, the workflow starts there.
        options: Every other option of `Client.start_workflow`.

    Returns:
        The handle; its `id` is the ID on the server, with the tenant's prefix.

    Raises:
        TenantError: There is no tenant, it is malformed, unknown or suspended, or the client or the
            running code acts for another.
        DirectoryUnavailableError: The directory gave no answer.
        ConfigurationError: The task queue is empty.
        SearchAttributeError: A plain search attribute has a type that Temporal does not have.

    Example:
        ```python
        handle = await start_workflow(client, Order.run, order, task_queue="orders", tenant="acme")
        print(await handle.result())
        ```
    """
    if not task_queue:
        msg = f"task_queue {task_queue!r} is empty: name the queue that the workers poll"
        raise ConfigurationError(msg)
    if workflow_id is not None:
        check_id(workflow_id)
    if tenant is not None:
        client = await _bound(client, tenant)
    return await client.start_workflow(
        workflow,
        args=args,
        id=str(uuid.uuid4()) if workflow_id is None else workflow_id,
        task_queue=task_queue,
        memo=memo,
        search_attributes=None if search_attributes is None else _typed(search_attributes),
        **options,
    )


async def _bound(client: Client, tenant: str) -> Client:
    """Bind the client to the tenant, so that its handles stay the tenant's."""
    plugin = plugin_of(client)
    if plugin.tenant == tenant:
        return client
    if isinstance(plugin.tenant, str):
        msg = f"the client is bound to {plugin.tenant!r} and cannot act for {tenant!r}"
        raise TenantMismatchError(msg)
    bound = plugin.for_tenant(tenant)
    placement = await plugin.placements.of(tenant)
    return with_plugin(client, bound, namespace=placement.namespace or client.namespace)


def _typed(
    attributes: TypedSearchAttributes | Mapping[str, PlainSearchAttribute],
) -> TypedSearchAttributes:
    if isinstance(attributes, TypedSearchAttributes):
        return attributes
    return TypedSearchAttributes([_pair(name, value) for name, value in attributes.items()])


def _pair(name: str, value: PlainSearchAttribute) -> SearchAttributePair[Any]:
    for kind, key in _KEYS:
        if isinstance(value, kind):
            return SearchAttributePair[Any](key(name), value)
    items: list[Any] = list(value) if isinstance(value, Sequence) else [value]
    if all(isinstance(item, str) for item in items):
        return SearchAttributePair(SearchAttributeKey.for_keyword_list(name), items)
    msg = (
        f"search attribute {name!r} = {value!r} has no type in Temporal: pass text, a number,"
        " a bool, a datetime or a list of texts"
    )
    raise SearchAttributeError(msg)
