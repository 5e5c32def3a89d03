"""The client's calls, one rule each: the single place where a call kind is added.

A rule writes the tenant into a call's input, scopes the IDs in it, or refuses. Calls that are not
in `CALLS` are refused to tenants, so that a new one of the SDK is never let through by accident.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from temporalio.client import (
    AsyncActivityIDReference,
    CompleteAsyncActivityInput,
    CreateScheduleInput,
    FailAsyncActivityInput,
    HeartbeatAsyncActivityInput,
    QueryWorkflowInput,
    ReportCancellationAsyncActivityInput,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleUpdate,
    ScheduleUpdateInput,
    SignalWorkflowInput,
    StartActivityInput,
    StartWorkflowInput,
    StartWorkflowUpdateInput,
    StartWorkflowUpdateWithStartInput,
    UpdateScheduleInput,
    UpdateWithStartStartWorkflowInput,
)
from temporalio.common import TypedSearchAttributes

from orkestra.errors import ForbiddenOperationError
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.tenancy import check_id, scope_id

Rule: TypeAlias = Callable[[TenantPolicy, Any, str], None]
"""Changes the input of a call in place; takes the policy, the input and the tenant."""

_AsyncActivityInput: TypeAlias = (
    HeartbeatAsyncActivityInput
    | CompleteAsyncActivityInput
    | FailAsyncActivityInput
    | ReportCancellationAsyncActivityInput
)


def _start(
    policy: TenantPolicy,
    call: StartWorkflowInput | UpdateWithStartStartWorkflowInput,
    tenant: str,
) -> None:
    check_id(call.id)
    call.headers = policy.stamp_headers(call.headers, tenant)
    call.memo = policy.stamp_memo(call.memo, tenant)
    call.search_attributes = policy.stamp_attributes(call.search_attributes, tenant)
    call.priority = policy.fair(call.priority, tenant)
    call.id = scope_id(tenant, call.id)


def _update_with_start(
    policy: TenantPolicy, call: StartWorkflowUpdateWithStartInput, tenant: str
) -> None:
    _start(policy, call.start_workflow_input, tenant)
    update = call.update_workflow_input
    update.headers = policy.stamp_headers(update.headers, tenant)


def _message(
    policy: TenantPolicy,
    call: SignalWorkflowInput | QueryWorkflowInput | StartWorkflowUpdateInput,
    tenant: str,
) -> None:
    call.headers = policy.stamp_headers(call.headers, tenant)
    call.id = scope_id(tenant, call.id)


def _create_schedule(policy: TenantPolicy, call: CreateScheduleInput, tenant: str) -> None:
    check_id(call.id)
    call.schedule = _stamped_schedule(policy, call.schedule, tenant)
    call.search_attributes = policy.stamp_attributes(call.search_attributes, tenant)
    call.memo = policy.stamp_memo(call.memo, tenant)
    call.id = scope_id(tenant, call.id)


def _update_schedule(policy: TenantPolicy, call: UpdateScheduleInput, tenant: str) -> None:
    updater = call.updater

    async def stamping(described: ScheduleUpdateInput) -> ScheduleUpdate | None:
        made = updater(described)
        update = await made if inspect.isawaitable(made) else made
        if update is None:
            return None
        attributes = update.search_attributes
        if attributes is not None:
            stamped = policy.stamp_attributes(attributes, tenant)
            attributes = stamped if isinstance(stamped, TypedSearchAttributes) else attributes
        return ScheduleUpdate(_stamped_schedule(policy, update.schedule, tenant), attributes)

    call.updater = stamping
    call.id = scope_id(tenant, call.id)


def _stamped_schedule(policy: TenantPolicy, schedule: Schedule, tenant: str) -> Schedule:
    """A copy of the schedule whose action starts workflows of the tenant."""
    action = schedule.action
    if not isinstance(action, ScheduleActionStartWorkflow):
        msg = f"a schedule's action of {type(action).__name__} is not known: start a workflow"
        raise ForbiddenOperationError(msg)
    stamped = copy.copy(action)
    stamped.headers = policy.stamp_headers(action.headers or {}, tenant)
    stamped.memo = policy.stamp_memo(action.memo, tenant)
    stamped.typed_search_attributes = policy.stamp_typed(action.typed_search_attributes, tenant)
    stamped.priority = policy.fair(action.priority, tenant)
    stamped.id = scope_id(tenant, check_id(action.id))
    copied = copy.copy(schedule)
    copied.action = stamped
    return copied


def _start_activity(policy: TenantPolicy, call: StartActivityInput, tenant: str) -> None:
    check_id(call.id)
    call.headers = policy.stamp_headers(call.headers, tenant)
    attributes = call.search_attributes or TypedSearchAttributes.empty
    call.search_attributes = policy.stamp_typed(attributes, tenant)
    call.priority = policy.fair(call.priority, tenant)
    call.id = scope_id(tenant, call.id)


def _async_activity(_policy: TenantPolicy, call: _AsyncActivityInput, tenant: str) -> None:
    reference = call.id_or_token
    if isinstance(reference, bytes):
        msg = (
            f"a task token does not say whose it is, and tenant {tenant!r} gave one: complete the"
            " activity by workflow ID, run ID and activity ID"
        )
        raise ForbiddenOperationError(msg)
    is_standalone = reference.workflow_id is None
    call.id_or_token = AsyncActivityIDReference(
        None if reference.workflow_id is None else scope_id(tenant, reference.workflow_id),
        reference.run_id,
        scope_id(tenant, reference.activity_id) if is_standalone else reference.activity_id,
    )


def _scope(field: str) -> Rule:
    def rule(_policy: TenantPolicy, call: Any, tenant: str) -> None:
        setattr(call, field, scope_id(tenant, getattr(call, field)))

    return rule


def _confined(_policy: TenantPolicy, _call: Any, _tenant: str) -> None:
    """Lists and counts: the guard writes their queries anew, for raw requests too."""


CALLS: Final[Mapping[str, Rule]] = {
    "start_workflow": _start,
    "start_update_with_start_workflow": _update_with_start,
    "signal_workflow": _message,
    "query_workflow": _message,
    "start_workflow_update": _message,
    "cancel_workflow": _scope("id"),
    "terminate_workflow": _scope("id"),
    "describe_workflow": _scope("id"),
    "fetch_workflow_history_events": _scope("id"),
    "list_workflows": _confined,
    "count_workflows": _confined,
    "create_schedule": _create_schedule,
    "update_schedule": _update_schedule,
    "describe_schedule": _scope("id"),
    "pause_schedule": _scope("id"),
    "unpause_schedule": _scope("id"),
    "trigger_schedule": _scope("id"),
    "backfill_schedule": _scope("id"),
    "delete_schedule": _scope("id"),
    "list_schedules": _confined,
    "start_activity": _start_activity,
    "describe_activity": _scope("activity_id"),
    "cancel_activity": _scope("activity_id"),
    "terminate_activity": _scope("activity_id"),
    "pause_activity": _scope("activity_id"),
    "unpause_activity": _scope("activity_id"),
    "update_activity_options": _scope("activity_id"),
    "list_activities": _confined,
    "count_activities": _confined,
    "heartbeat_async_activity": _async_activity,
    "complete_async_activity": _async_activity,
    "fail_async_activity": _async_activity,
    "report_cancellation_async_activity": _async_activity,
}
"""What a tenant's client may call, and how the tenant goes with it."""

REFUSED: Final = frozenset(
    {
        "cancel_nexus_operation",
        "count_nexus_operations",
        "describe_nexus_operation",
        "get_nexus_operation_result",
        "get_worker_build_id_compatibility",
        "get_worker_task_reachability",
        "list_nexus_operations",
        "start_nexus_operation",
        "terminate_nexus_operation",
        "update_worker_build_id_compatibility",
    }
)
"""What only an operator may call: versions of workers are not a tenant's, and Nexus operations
without a workflow have no place for a search attribute on every server yet."""


def named_id(call: object) -> str | None:
    """The ID on the server that a call's input names, if any."""
    start = getattr(call, "start_workflow_input", call)
    found = getattr(start, "id", None) or getattr(start, "activity_id", None)
    return found if isinstance(found, str) else None
