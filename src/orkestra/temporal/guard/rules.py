"""Rules for single fields of a tenant's requests and responses.

A rule takes a value and the tenant's scope. It raises `FieldRejectedError`, or returns a value to
send instead, or None to send the value as it is. The table says which field has which rule.
"""

import json
import logging
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from contextvars import ContextVar
from dataclasses import dataclass
from math import isclose
from operator import attrgetter
from typing import Any, Final, TypeAlias

from nexusrpc.handler import StartOperationContext
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import (
    Callback,
    Link,
    Payload,
    Priority,
    SearchAttributes,
    WorkflowExecution,
)
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.namespace.v1 import NamespaceInfo
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse

from orkestra.config import TenancySettings
from orkestra.directory import Placements
from orkestra.directory.placement import SYSTEM_QUEUES
from orkestra.directory.source import NORMAL_PRIORITY
from orkestra.errors import TenantMismatchError
from orkestra.temporal._sdk import nexus_link_to_temporal_link
from orkestra.temporal.guard.query import IdField, is_own_row, scope_query
from orkestra.tenancy import PLAIN_JSON, check_id, scope_id, tenant_as_json


class TenantScope:
    """One tenant's namespace, IDs and values, prepared for comparison.

    Attributes:
        tenant: The tenant; empty for calls that need none.
        namespace: The only namespace that requests may name.
        placements: The directory's answers. Calls cannot wait for the directory, so rules use the
            last known one: a tenant that was never asked for may name no task queue.
        prefix: Prefix of the tenant's IDs, unless IDs are global.
        has_global_ids: Whether IDs carry no tenant.
        header: Name of the tenant's Temporal header and memo key.
        attribute: Name of the tenant's search attribute.
        is_fair: Whether tasks carry the tenant as fairness key.
        payload: The tenant's payload in headers and memos.
        keyword: The tenant's payload as a typed search attribute.
        texts: The tenant as JSON, alone and as the list that untyped attributes are sent as.
    """

    __slots__ = (
        "attribute",
        "has_global_ids",
        "header",
        "is_fair",
        "keyword",
        "namespace",
        "payload",
        "placements",
        "prefix",
        "tenant",
        "texts",
    )

    def __init__(
        self, tenant: str, *, namespace: str, settings: TenancySettings, placements: Placements
    ) -> None:
        self.tenant = tenant
        self.namespace = namespace
        self.placements = placements
        self.prefix = f"{tenant}:"
        self.has_global_ids = settings.workflow_ids == "global"
        self.header = settings.header
        self.attribute = settings.search_attribute
        self.is_fair = settings.fairness
        text = tenant_as_json(tenant)
        self.texts = (text, b"[%b]" % text)
        self.payload = Payload(metadata={"encoding": PLAIN_JSON}, data=text)
        self.keyword = Payload(metadata={"encoding": PLAIN_JSON, "type": b"Keyword"}, data=text)


class FieldRejectedError(Exception):
    """A field that breaks its rule; the guard turns it into a refusal that names the call.

    Attributes:
        problem: What is wrong with the field and how to fix it.
        field: Its path in the request, completed on the way out.
    """

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field

    def inside(self, container: str) -> None:
        """Prefix the path with the field that contains this one."""
        separator = "." if self.field and not self.field.startswith("[") else ""
        self.field = f"{container}{separator}{self.field}"


Rule: TypeAlias = Callable[[Any, TenantScope], object]
"""Checks a value; what it returns, if not None, is sent instead."""

ResponseRule: TypeAlias = Callable[[Any, TenantScope], None]
"""Removes from a response, in place, what the tenant may not see."""


def own_namespace(namespace: str, scope: TenantScope) -> None:
    """Require the namespace of the client."""
    if namespace != scope.namespace:
        problem = f"{namespace!r} is not the client's namespace {scope.namespace!r}"
        raise FieldRejectedError(problem)


def own_id(server_id: str, scope: TenantScope) -> None:
    """Require the tenant's prefix; the owner of a global ID is looked up instead.

    Raises:
        InvalidIdError: It has a character that logs and terminals cannot show safely (B24).
    """
    if scope.has_global_ids:
        check_id(server_id)
        return
    if not server_id.startswith(scope.prefix) or len(server_id) == len(scope.prefix):
        raise FieldRejectedError(
            f"{server_id!r} does not begin with {scope.prefix!r}: the Client's own methods scope"
            " IDs, in a raw request use orkestra.tenancy.scope_id()"
        )
    if not server_id.isprintable():
        check_id(server_id)


def scoped_id(user_id: str, scope: TenantScope) -> str:
    """Add the tenant's prefix to an ID in a call that the SDK makes without its interceptors."""
    return user_id if scope.has_global_ids else scope_id(scope.tenant, user_id)


def scoped_execution(execution: WorkflowExecution, scope: TenantScope) -> None:
    """Do the same for the ID inside an execution."""
    execution.workflow_id = scoped_id(execution.workflow_id, scope)


def tenant_header(fields: MutableMapping[str, Payload], scope: TenantScope) -> None:
    """Require headers that name the tenant, under exactly one spelling of the key (B12)."""
    found = fields.get(scope.header)
    if found is None:
        raise FieldRejectedError(
            f"the tenant is missing: set it to json/plain {scope.texts[0].decode()}, as the"
            " Client's own methods do",
            f"[{scope.header!r}]",
        )
    if found != scope.payload:
        _require_tenant(found, scope)
    if len(fields) > 1:
        lowered = scope.header.lower()
        for key in fields:
            if key.lower() == lowered and key != scope.header:
                problem = f"it differs from {scope.header!r} by case only"
                raise FieldRejectedError(problem, f"[{key!r}]")


def tenant_memo(fields: MutableMapping[str, Payload], scope: TenantScope) -> None:
    """Require a memo that names no tenant, or this one."""
    found = fields.get(scope.header)
    if found is not None and found != scope.payload:
        _require_tenant(found, scope)


def _require_tenant(found: Payload, scope: TenantScope) -> None:
    if found.metadata.get("encoding") == PLAIN_JSON:
        problem = f"it is not {scope.tenant!r} in plain JSON"
        raise FieldRejectedError(problem, f"[{scope.header!r}]")
    # A codec has hidden it, and workers and other SDKs must read it: write it again (B19).
    found.CopyFrom(scope.payload)


def tenant_attribute(fields: MutableMapping[str, Payload], scope: TenantScope) -> None:
    """Require search attributes that put the work on the tenant's list."""
    found = fields.get(scope.attribute)
    if found == scope.keyword:  # the spelling of the interceptors; other SDKs write others
        return
    if found is None:
        raise FieldRejectedError(
            f"the tenant is missing: set it to the Keyword {scope.tenant!r}, as the Client's own"
            " methods do",
            f"[{scope.attribute!r}]",
        )
    metadata = dict(found.metadata)
    is_text = metadata.get("encoding") == PLAIN_JSON and metadata.get("type") in (None, b"Keyword")
    if not is_text or found.data not in scope.texts:
        problem = f"it is not the Keyword {scope.tenant!r}"
        raise FieldRejectedError(problem, f"[{scope.attribute!r}]")


def granted_priority(priority: Priority, scope: TenantScope) -> None:
    """Require the tenant as fairness key, its weight, and no priority above its own (B13)."""
    if not scope.is_fair:
        return
    placement = scope.placements.last_known(scope.tenant)
    most_urgent = NORMAL_PRIORITY if placement is None else placement.record.most_urgent_priority
    granted = None if placement is None else placement.record.fairness_weight
    key = priority.priority_key
    if key != 0 and key < most_urgent:
        raise FieldRejectedError(f"{key!r} is more urgent than the tenant may be", "priority_key")
    if priority.fairness_key != scope.tenant:
        raise _not_the_fairness_key(priority)
    weight = priority.fairness_weight
    # The field is a float of 32 bits: the granted weight does not come back from it unchanged.
    if not isclose(weight, granted or 0.0, rel_tol=1e-6):
        problem = f"{weight!r} is not the weight of the tenant, {granted!r}"
        raise FieldRejectedError(problem, "fairness_weight")


def _not_the_fairness_key(priority: Priority) -> FieldRejectedError:
    problem = f"{priority.fairness_key!r} is not the tenant, which is the fairness key"
    return FieldRejectedError(problem, "fairness_key")


# A sticky queue belongs to a single worker. Looked up once: the enum's names cost a Python call.
_NORMAL_KINDS: Final = frozenset(
    {TaskQueueKind.TASK_QUEUE_KIND_UNSPECIFIED, TaskQueueKind.TASK_QUEUE_KIND_NORMAL}
)


def granted_queue(queue: TaskQueue, scope: TenantScope) -> None:
    """Require a normal task queue that the tenant may name (B11)."""
    name = queue.name
    placement = None
    if name and not name.startswith(SYSTEM_QUEUES):
        placement = scope.placements.last_known(scope.tenant)
    try:
        is_granted = placement and placement.queue(name, namespace=scope.namespace) == name
    except TenantMismatchError:
        is_granted = False
    if not is_granted:
        raise FieldRejectedError(f"task queue {name!r} is not one that the tenant may name", "name")
    if queue.kind not in _NORMAL_KINDS:
        raise FieldRejectedError("a tenant may name normal task queues only", "kind")


def own_activity(request: Any, scope: TenantScope) -> None:
    """Require an activity of a workflow of the tenant, or a standalone one of the tenant."""
    field = "workflow_id" if request.workflow_id else "activity_id"
    try:
        own_id(getattr(request, field), scope)
    except FieldRejectedError as error:
        error.inside(field)
        raise


_FAIRNESS_PATHS: Final = frozenset(
    {"priority", "priority.priority_key", "priority.fairness_key", "priority.fairness_weight"}
)
_MASK_PATHS: Final = _FAIRNESS_PATHS | {
    "heartbeat_timeout",
    "retry_policy",
    "retry_policy.backoff_coefficient",
    "retry_policy.initial_interval",
    "retry_policy.maximum_attempts",
    "retry_policy.maximum_interval",
    "schedule_to_close_timeout",
    "schedule_to_start_timeout",
    "start_delay",
    "start_to_close_timeout",
    "task_queue.name",
}


def changed_options(request: Any, scope: TenantScope) -> None:
    """Require activity options that may change, in the one spelling of their names.

    The server empties a field that the mask names and the request leaves out, the fairness key
    for instance.
    """
    try:
        for path in request.update_mask.paths:
            _require_option(path, request.activity_options, scope)
    except FieldRejectedError as error:
        error.field = "update_mask"
        raise


def _require_option(path: str, options: ActivityOptions, scope: TenantScope) -> None:
    if path not in _MASK_PATHS:
        raise FieldRejectedError(f"{path!r} is not an option that a tenant may change")
    if path in _FAIRNESS_PATHS and scope.is_fair and options.priority.fairness_key != scope.tenant:
        raise _not_the_fairness_key(options.priority)
    if path == "task_queue.name":
        granted_queue(options.task_queue, scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class NexusTask:
    """Values that a Nexus operation's start arrived with.

    The SDK copies them into requests that the handler makes. They complete and link to the
    caller's workflow, so a tenant may set no others there.

    Attributes:
        callback_url: URL that the operation's result goes to.
        callback_headers: Headers of that callback; they name the operation that it completes.
        links: Links to the caller.
    """

    callback_url: str
    callback_headers: Mapping[str, str]
    links: tuple[Link, ...] = ()


_nexus_task: Final[ContextVar[NexusTask | None]] = ContextVar("orkestra_nexus_task", default=None)


def enter_nexus_task(context: StartOperationContext) -> None:
    """Note the task for as long as the running task's context lives.

    Before the handler's code runs, because that code can change the SDK's own context.
    """
    links = map(nexus_link_to_temporal_link, context.inbound_links)
    _nexus_task.set(
        NexusTask(
            callback_url=context.callback_url or "",
            callback_headers=dict(context.callback_headers),
            links=tuple(link for link in links if link is not None),
        )
    )


def of_nexus_task(link: Link, _scope: TenantScope) -> None:
    """Require a link that came with the Nexus task being handled; the SDK adds no others."""
    task = _nexus_task.get()
    if task is None or link not in task.links:
        raise FieldRejectedError("it is not a link of the Nexus task that this code handles")


def completes_nexus_task(callback: Callback, _scope: TenantScope) -> None:
    """Require the callback of the Nexus task being handled: others complete foreign work (B6)."""
    task = _nexus_task.get()
    nexus = callback.nexus
    # The SDK adds the token of the operation, once the workflow has an ID.
    headers = {k: v for k, v in nexus.header.items() if k != "nexus-operation-token"}
    if task is None or nexus.url != task.callback_url or headers != dict(task.callback_headers):
        raise FieldRejectedError("it is not the callback of the Nexus task that this code handles")


def in_nexus_task(_options: object, _scope: TenantScope) -> None:
    """Require a Nexus handler, where the SDK sets these options to attach callback and links."""
    if _nexus_task.get() is None:
        raise FieldRejectedError("only requests of a Nexus handler carry it")


def scoped_query(id_field: IdField) -> Rule:
    """Make the rule that rewrites a list or count query so that it selects the tenant's rows only.

    Args:
        id_field: The store's name for the ID of the rows.
    """

    def rule(query: str, scope: TenantScope) -> str:
        return scope_query(
            query,
            tenant=scope.tenant,
            attribute=scope.attribute,
            id_field=id_field,
            scoped_ids=not scope.has_global_ids,
        )

    return rule


_logger: Final = logging.getLogger("orkestra.temporal.guard")


def own_rows(rows: str, row_id: str) -> ResponseRule:
    """Make the rule that keeps the tenant's own rows.

    The query already selects them. This second check is for stores that compare loosely (SQLite's
    STARTS_WITH ignores case: B14), and for whatever else a query might let pass.

    Args:
        rows: Field of the response that holds the rows.
        row_id: Path of the ID in a row.
    """
    all_rows: Callable[[Any], MutableSequence[Any]] = attrgetter(rows)
    id_of: Callable[[Any], str] = attrgetter(row_id)

    def rule(response: Any, scope: TenantScope) -> None:
        found = all_rows(response)
        foreign = [
            index
            for index, row in enumerate(found)
            if not (scope.has_global_ids or is_own_row(scope.tenant, id_of(row)))
            or not _is_attributed(row.search_attributes, scope)
        ]
        if foreign:
            message = "Removed %d row(s) of other tenants from a list of %s"
            _logger.warning(message, len(foreign), scope.tenant)
        for index in reversed(foreign):  # from the end, so that the indexes stay valid
            del found[index]

    return rule


def _is_attributed(attributes: SearchAttributes, scope: TenantScope) -> bool:
    found = attributes.indexed_fields.get(scope.attribute)
    if found is None:
        return False
    try:
        value = json.loads(found.data)
    except ValueError:
        return False
    return value in (scope.tenant, [scope.tenant])


def namespace_outline(response: DescribeNamespaceResponse, _scope: TenantScope) -> None:
    """Keep what clients need; owner, notes, clusters and attribute names are the operator's."""
    info = response.namespace_info
    outline = DescribeNamespaceResponse(
        namespace_info=NamespaceInfo(
            name=info.name,
            id=info.id,
            state=info.state,
            capabilities=info.capabilities,
            limits=info.limits,
        )
    )
    retention = response.config.workflow_execution_retention_ttl
    outline.config.workflow_execution_retention_ttl.CopyFrom(retention)
    response.CopyFrom(outline)
