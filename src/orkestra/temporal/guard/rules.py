"""What single fields must satisfy.

A rule takes the value and the bounds, raises `OutOfBoundsError`, and may return another value to
send in its place.
"""

from collections.abc import Callable, MutableMapping
from math import isclose
from typing import Any, Final, TypeAlias

from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Callback, Link, Payload, WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueKind

from orkestra.directory.placement import SYSTEM_QUEUES
from orkestra.temporal.guard.bounds import Bounds, OutOfBoundsError
from orkestra.temporal.visibility import IdField, scope_query
from orkestra.tenancy import check_id, scope_id

Rule: TypeAlias = Callable[[Any, Bounds], object]
"""Checks a value; what it returns, if not None, is sent instead."""

_OPERATION_HEADER: Final = "nexus-operation-token"
_TEXT_TYPES: Final = (None, b"Keyword")
_FAIR_PATHS: Final = frozenset(
    {"priority", "priority.priority_key", "priority.fairness_key", "priority.fairness_weight"}
)
_MASK_PATHS: Final = _FAIR_PATHS | {
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


def own_namespace(namespace: str, bounds: Bounds) -> None:
    """The namespace of the client, and no other."""
    if namespace != bounds.namespace:
        raise OutOfBoundsError(f"{namespace!r} is not the client's namespace {bounds.namespace!r}")


def own_id(server_id: str, bounds: Bounds) -> None:
    """An ID as the server has it, with the tenant's prefix; whose a global one is, is looked up.

    Raises:
        InvalidIdError: It has a character that logs and terminals cannot show safely.
    """
    if bounds.has_global_ids:
        check_id(server_id)
        return
    if not server_id.startswith(bounds.prefix) or len(server_id) == len(bounds.prefix):
        raise OutOfBoundsError(
            f"{server_id!r} does not begin with {bounds.prefix!r}: the Client's own methods scope"
            " IDs, in a raw request use orkestra.tenancy.scope_id()"
        )
    if not server_id.isprintable():
        check_id(server_id)


def scoped_id(user_id: str, bounds: Bounds) -> str:
    """An ID in calls that the SDK makes without its interceptors: the tenant's prefix is added."""
    return user_id if bounds.has_global_ids else scope_id(bounds.tenant, user_id)


def scoped_execution(execution: WorkflowExecution, bounds: Bounds) -> None:
    """The same for the ID inside an execution."""
    execution.workflow_id = scoped_id(execution.workflow_id, bounds)


def tenant_header(fields: MutableMapping[str, Payload], bounds: Bounds) -> None:
    """Headers that name the tenant under exactly one spelling of the key."""
    found = fields.get(bounds.header)
    if found is None:
        raise OutOfBoundsError(
            f"the tenant is missing: set it to json/plain {bounds.texts[0].decode()}, as the"
            " Client's own methods do",
            f"[{bounds.header!r}]",
        )
    _uncover(found, bounds)
    if found != bounds.payload:
        raise OutOfBoundsError(f"it is not {bounds.tenant!r} in plain JSON", f"[{bounds.header!r}]")
    if len(fields) > 1:
        lowered = bounds.header.lower()
        for key in fields:
            if key.lower() == lowered and key != bounds.header:
                raise OutOfBoundsError(
                    f"it differs from {bounds.header!r} by case only", f"[{key!r}]"
                )


def tenant_memo(fields: MutableMapping[str, Payload], bounds: Bounds) -> None:
    """A memo that names no tenant, or this one."""
    found = fields.get(bounds.header)
    if found is None:
        return
    _uncover(found, bounds)
    if found != bounds.payload:
        raise OutOfBoundsError(f"it is not {bounds.tenant!r} in plain JSON", f"[{bounds.header!r}]")


def _uncover(found: Payload, bounds: Bounds) -> None:
    """Write the tenant anew where a codec has hidden it: workers and other SDKs must read it."""
    if found.metadata.get("encoding") != b"json/plain":
        found.CopyFrom(bounds.payload)


def tenant_attribute(fields: MutableMapping[str, Payload], bounds: Bounds) -> None:
    """Search attributes that put the work on the tenant's list."""
    found = fields.get(bounds.attribute)
    if found == bounds.keyword:
        return
    if found is None:
        raise OutOfBoundsError(
            f"the tenant is missing: set it to the Keyword {bounds.tenant!r}, as the Client's own"
            " methods do",
            f"[{bounds.attribute!r}]",
        )
    metadata = dict(found.metadata)
    is_text = metadata.get("encoding") == b"json/plain" and metadata.get("type") in _TEXT_TYPES
    if not is_text or found.data not in bounds.texts:
        raise OutOfBoundsError(
            f"it is not the Keyword {bounds.tenant!r}", f"[{bounds.attribute!r}]"
        )


def fair_key(key: str, bounds: Bounds) -> None:
    """The tenant, where tenants share their queues fairly."""
    if bounds.is_fair and key != bounds.tenant:
        raise OutOfBoundsError(f"{key!r} is not the tenant, which is the fairness key")


def granted_weight(weight: float, bounds: Bounds) -> None:
    """The weight that the tenant has been given."""
    if not bounds.is_fair:
        return
    granted = bounds.grants.fairness_weight(bounds.tenant)
    # The field is a float of 32 bits: the granted weight does not come back from it unchanged.
    if not isclose(weight, granted or 0.0, rel_tol=1e-6):
        raise OutOfBoundsError(f"{weight!r} is not the weight of the tenant, {granted!r}")


def granted_priority(key: int, bounds: Bounds) -> None:
    """No priority above the one that the tenant has been given."""
    if bounds.is_fair and key != 0 and key < bounds.grants.highest_priority(bounds.tenant):
        raise OutOfBoundsError(f"{key!r} is more urgent than the tenant may be")


def granted_queue(name: str, bounds: Bounds) -> None:
    """A task queue that the tenant may name."""
    is_system = name.startswith(SYSTEM_QUEUES)
    if is_system or not bounds.grants.queue_allowed(bounds.tenant, name):
        raise OutOfBoundsError(f"task queue {name!r} is not one that the tenant may name")


def normal_queue(kind: int, _bounds: Bounds) -> None:
    """A queue as users have it: sticky ones belong to a single worker."""
    if kind not in (
        TaskQueueKind.TASK_QUEUE_KIND_UNSPECIFIED,
        TaskQueueKind.TASK_QUEUE_KIND_NORMAL,
    ):
        raise OutOfBoundsError("a tenant may name normal task queues only")


def own_activity(request: Any, bounds: Bounds) -> None:
    """An activity of a workflow of the tenant, or a standalone one of the tenant."""
    field = "workflow_id" if request.workflow_id else "activity_id"
    try:
        own_id(getattr(request, field), bounds)
    except OutOfBoundsError as error:
        error.inside(field)
        raise


def changed_options(request: Any, bounds: Bounds) -> None:
    """Activity options that may change, by the one spelling of their names that is checked.

    What the mask names and the request leaves out is emptied, the fairness key for instance.
    """
    try:
        for path in request.update_mask.paths:
            _changed_option(path, request.activity_options, bounds)
    except OutOfBoundsError as error:
        error.inside("update_mask")
        raise


def _changed_option(path: str, options: ActivityOptions, bounds: Bounds) -> None:
    if path not in _MASK_PATHS:
        raise OutOfBoundsError(f"{path!r} is not an option that a tenant may change")
    if path in _FAIR_PATHS:
        fair_key(options.priority.fairness_key, bounds)
    if path == "task_queue.name":
        granted_queue(options.task_queue.name, bounds)


def of_nexus_task(link: Link, bounds: Bounds) -> None:
    """A link that came with the Nexus task being handled; the SDK adds no others."""
    task = bounds.grants.nexus_task()
    if task is None or link not in task.links:
        raise OutOfBoundsError("it is not a link of the Nexus task that this code handles")


def completes_nexus_task(callback: Callback, bounds: Bounds) -> None:
    """The callback of the Nexus task being handled; any other completes somebody else's work."""
    task = bounds.grants.nexus_task()
    headers = {k: v for k, v in callback.nexus.header.items() if k != _OPERATION_HEADER}
    if (
        task is None
        or callback.nexus.url != task.callback_url
        or headers != dict(task.callback_headers)
    ):
        raise OutOfBoundsError("it is not the callback of the Nexus task that this code handles")


def in_nexus_task(_options: object, bounds: Bounds) -> None:
    """Options that the SDK sets in Nexus handlers, to attach callback and links."""
    if bounds.grants.nexus_task() is None:
        raise OutOfBoundsError("only requests of a Nexus handler carry it")


def scoped_query(id_field: IdField) -> Rule:
    """A list or count query, written anew so that it selects the tenant's rows only.

    Args:
        id_field: What the store calls the ID of the rows.
    """

    def rule(query: str, bounds: Bounds) -> str:
        return scope_query(
            query,
            tenant=bounds.tenant,
            attribute=bounds.attribute,
            id_field=id_field,
            scoped_ids=not bounds.has_global_ids,
        )

    return rule
