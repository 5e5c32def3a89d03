"""The client's side: no call leaves without its tenant, and every ID is the tenant's own.

The client's calls, one rule each: the single place where a call kind is added.

A rule writes the tenant into a call's input, scopes the IDs in it, or refuses. Calls that are not
in `CALLS` are refused to tenants, so that a new one of the SDK is never let through by accident.
"""

import copy
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from temporalio.client import (
    AsyncActivityIDReference,
    CompleteAsyncActivityInput,
    CreateScheduleInput,
    FailAsyncActivityInput,
    HeartbeatAsyncActivityInput,
    OutboundInterceptor,
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
from temporalio.common import Priority, TypedSearchAttributes

from orkestra.directory import Placement, Placements
from orkestra.errors import (
    ForbiddenOperationError,
    TenantError,
)
from orkestra.temporal.tenant.stamp import Headers, TenantPolicy
from orkestra.tenancy import AllTenants, acting_tenant, check_id, owner_of


@dataclass(frozen=True)
class Acting:
    """For whom a call is made.

    Attributes:
        policy: Names and mode.
        tenant: The tenant that the call acts for.
        placement: Where the tenant belongs; only known to calls that start work.
    """

    policy: TenantPolicy
    tenant: str
    placement: Placement | None = None

    def scope(self, user_id: str) -> str:
        """The ID on the server of what the tenant calls so."""
        return self.policy.scope(self.tenant, user_id)

    def headers(self, headers: Headers) -> Headers:
        """The headers with the tenant."""
        return self.policy.stamp_headers(headers, self.tenant)

    def queue(self, name: str) -> str:
        """The queue on the server that the queue's name means for the tenant."""
        return self._place.queue(name)

    def fair(self, priority: Priority) -> Priority:
        """The priority with the tenant's own key and weight."""
        record = self._place.record
        return self.policy.fair(
            priority,
            self.tenant,
            weight=record.fairness_weight,
            most_urgent=record.most_urgent_priority,
        )

    @property
    def _place(self) -> Placement:
        if self.placement is None:
            msg = "a rule places work, but its call is not in STARTS"
            raise AssertionError(msg)
        return self.placement


Rule: TypeAlias = Callable[[Acting, Any], None]
"""Changes the input of a call in place; takes for whom it is made, and the input."""

_AsyncActivityInput: TypeAlias = (
    HeartbeatAsyncActivityInput
    | CompleteAsyncActivityInput
    | FailAsyncActivityInput
    | ReportCancellationAsyncActivityInput
)


def _start(acting: Acting, call: StartWorkflowInput | UpdateWithStartStartWorkflowInput) -> None:
    policy, tenant = acting.policy, acting.tenant
    check_id(call.id)
    call.headers = acting.headers(call.headers)
    call.memo = policy.stamp_memo(call.memo, tenant)
    call.search_attributes = policy.stamp_attributes(call.search_attributes, tenant)
    call.priority = acting.fair(call.priority)
    call.task_queue = acting.queue(call.task_queue)
    call.id = acting.scope(call.id)


def _update_with_start(acting: Acting, call: StartWorkflowUpdateWithStartInput) -> None:
    _start(acting, call.start_workflow_input)
    update = call.update_workflow_input
    update.headers = acting.headers(update.headers)


def _message(
    acting: Acting, call: SignalWorkflowInput | QueryWorkflowInput | StartWorkflowUpdateInput
) -> None:
    call.headers = acting.headers(call.headers)
    call.id = acting.scope(call.id)


def _create_schedule(acting: Acting, call: CreateScheduleInput) -> None:
    policy, tenant = acting.policy, acting.tenant
    check_id(call.id)
    call.schedule = _stamped_schedule(acting, call.schedule)
    call.search_attributes = policy.stamp_attributes(call.search_attributes, tenant)
    call.memo = policy.stamp_memo(call.memo, tenant)
    call.id = acting.scope(call.id)


def _update_schedule(acting: Acting, call: UpdateScheduleInput) -> None:
    updater = call.updater

    async def stamping(described: ScheduleUpdateInput) -> ScheduleUpdate | None:
        made = updater(described)
        update = await made if inspect.isawaitable(made) else made
        if update is None:
            return None
        attributes = update.search_attributes
        if attributes is not None:
            stamped = acting.policy.stamp_attributes(attributes, acting.tenant)
            attributes = stamped if isinstance(stamped, TypedSearchAttributes) else attributes
        return ScheduleUpdate(_stamped_schedule(acting, update.schedule), attributes)

    call.updater = stamping
    call.id = acting.scope(call.id)


def _stamped_schedule(acting: Acting, schedule: Schedule) -> Schedule:
    """A copy of the schedule whose action starts workflows of the tenant."""
    policy, tenant = acting.policy, acting.tenant
    action = schedule.action
    if not isinstance(action, ScheduleActionStartWorkflow):
        msg = f"a schedule's action of {type(action).__name__} is not known: start a workflow"
        raise ForbiddenOperationError(msg)
    stamped = copy.copy(action)
    stamped.headers = acting.headers(action.headers or {})
    stamped.memo = policy.stamp_memo(action.memo, tenant)
    stamped.typed_search_attributes = policy.stamp_typed(action.typed_search_attributes, tenant)
    stamped.priority = acting.fair(action.priority)
    stamped.task_queue = acting.queue(action.task_queue)
    stamped.id = acting.scope(check_id(action.id))
    copied = copy.copy(schedule)
    copied.action = stamped
    return copied


def _start_activity(acting: Acting, call: StartActivityInput) -> None:
    check_id(call.id)
    call.headers = acting.headers(call.headers)
    attributes = call.search_attributes or TypedSearchAttributes.empty
    call.search_attributes = acting.policy.stamp_typed(attributes, acting.tenant)
    call.priority = acting.fair(call.priority)
    call.task_queue = acting.queue(call.task_queue)
    call.id = acting.scope(call.id)


def _async_activity(acting: Acting, call: _AsyncActivityInput) -> None:
    reference = call.id_or_token
    if isinstance(reference, bytes):
        msg = (
            f"a task token does not say whose it is, and tenant {acting.tenant!r} gave one:"
            " complete the activity by workflow ID, run ID and activity ID"
        )
        raise ForbiddenOperationError(msg)
    workflow_id, activity_id = reference.workflow_id, reference.activity_id
    call.id_or_token = AsyncActivityIDReference(
        None if workflow_id is None else acting.scope(workflow_id),
        reference.run_id,
        acting.scope(activity_id) if workflow_id is None else activity_id,
    )


def _scope(field: str) -> Rule:
    def rule(acting: Acting, call: Any) -> None:
        setattr(call, field, acting.scope(getattr(call, field)))

    return rule


def _confined(_acting: Acting, _call: Any) -> None:
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

STARTS: Final = frozenset(
    {
        "start_workflow",
        "start_update_with_start_workflow",
        "create_schedule",
        "update_schedule",
        "unpause_schedule",
        "trigger_schedule",
        "backfill_schedule",
        "start_activity",
    }
)
"""What leads to new work: the directory is asked first, and a suspended tenant refused."""

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


OnRefusal = Callable[[str, TenantError], None]
"""Called with a call that was refused, and why."""


class TenantClientOutbound(OutboundInterceptor):
    """Applies the rule of each call; the methods are made from the table of rules below."""

    def __init__(
        self,
        next: OutboundInterceptor,
        policy: TenantPolicy,
        tenant: str | AllTenants | None,
        *,
        placements: Placements,
        namespace: str | None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        """Act for the tenant; None means the tenant of the running code."""
        super().__init__(next)
        self._policy = policy
        self._tenant = tenant
        self._placements = placements
        self._namespace = namespace
        self._on_refusal = on_refusal

    def acting_tenant(self, call: str, server_id: str | None) -> str | None:
        """The tenant that a call acts for, or None where it may go without one.

        Args:
            call: What is attempted, for the error.
            server_id: The ID it names; an operator acts for the tenant in its prefix.

        Raises:
            TenantRequiredError: There is none and there must be one.
            TenantMismatchError: The client is bound to one tenant and the code acts for another.
        """
        tenant = acting_tenant(call, self._tenant, is_required=self._policy.is_required)
        if tenant is None and isinstance(self._tenant, AllTenants):
            named = None if self._policy.has_global_ids else server_id
            return None if named is None else owner_of(named)
        return tenant

    @contextmanager
    def noting_refusals(self, call: str) -> Generator[None]:
        """Tell whoever counts them of refusals in the block."""
        try:
            yield
        except TenantError as error:
            if self._on_refusal is not None:
                self._on_refusal(call, error)
            raise

    def apply(self, call: str, rule: Rule | None, input: Any) -> None:
        """Write the tenant into the input of a call that starts nothing.

        Raises:
            TenantError: The call may not be made so, or not by a tenant.
        """
        tenant = self.acting_tenant(call, named_id(input))
        if tenant is None:
            return
        if rule is None:
            msg = f"{call} is not available to tenant {tenant!r}: use a client of ALL_TENANTS"
            raise ForbiddenOperationError(msg)
        rule(Acting(self._policy, tenant), input)

    async def apply_to_start(self, call: str, rule: Rule, input: Any) -> None:
        """Write the tenant into the input of a call that leads to new work, where it may.

        Raises:
            TenantError: The call may not be made so, or not by this tenant now.
            DirectoryUnavailableError: The directory gave no answer.
        """
        tenant = self.acting_tenant(call, named_id(input))
        if tenant is not None:
            placement = await self._admitted(tenant)
            rule(Acting(self._policy, tenant, placement), input)

    async def _admitted(self, tenant: str) -> Placement:
        """Operators are not stopped by a suspension here, but workers refuse what they start."""
        placement = await self._placements.of(tenant)
        if not isinstance(self._tenant, AllTenants):
            placement.require_active()
        if self._namespace is not None:
            placement.require_namespace(self._namespace)
        return placement


def _method(call: str, rule: Rule | None) -> Any:
    def method(self: TenantClientOutbound, input: Any) -> Any:
        with self.noting_refusals(call):
            self.apply(call, rule, input)
        return getattr(self.next, call)(input)

    return method


def _starting_method(call: str, rule: Rule) -> Any:
    async def method(self: TenantClientOutbound, input: Any) -> Any:
        with self.noting_refusals(call):
            await self.apply_to_start(call, rule, input)
        return await getattr(self.next, call)(input)

    return method


def _override(call: str) -> Any:
    is_start = call in STARTS
    method = _starting_method(call, CALLS[call]) if is_start else _method(call, CALLS.get(call))
    method.__name__ = call
    method.__doc__ = "See base class."
    return method


for _call in (*CALLS, *REFUSED):
    setattr(TenantClientOutbound, _call, _override(_call))
