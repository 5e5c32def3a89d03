"""Client side: every call carries its tenant, and every ID in it is the tenant's own.

Each method of the SDK's outbound interceptor is written out below: it applies one rule to its
input and sends it on. A rule writes the tenant into the input and scopes the IDs in it. A call
without a rule is refused to tenants; rules that lead to new work ask the directory first.

Interceptors only write. The guard checks what leaves, for requests made without them too. So a new
call of the SDK needs a method here, and a row of the guard's table for each new RPC.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from temporalio import client
from temporalio.common import TypedSearchAttributes

from orkestra.directory import Placement, Placements
from orkestra.errors import ForbiddenOperationError, TenantError
from orkestra.temporal.tenant.stamp import TenantCodec
from orkestra.tenancy import AllTenants, acting_tenant, check_id, owner_of

_Input = TypeVar("_Input")
_Rule: TypeAlias = Callable[[TenantCodec, str, _Input], None]
_StartRule: TypeAlias = Callable[[TenantCodec, str, Placement, _Input], None]

OnRefusal: TypeAlias = Callable[[str, TenantError], None]
"""Called with the name of a call that was refused, and why."""


class TenantClientOutbound(client.OutboundInterceptor):
    """Applies the rule of each call to its input, and sends it on."""

    def __init__(
        self,
        next: client.OutboundInterceptor,
        codec: TenantCodec,
        tenant: str | AllTenants | None,
        placements: Placements,
        namespace: str | None,
        on_refusal: OnRefusal | None,
    ) -> None:
        super().__init__(next)
        self._codec = codec
        self._tenant = tenant
        self._placements = placements
        self._namespace = namespace
        self._on_refusal = on_refusal

    def _apply(self, call: str, input: _Input, rule: _Rule[_Input] | None = None) -> None:
        """Apply the rule of a call that starts nothing; without one, tenants may not make it."""
        try:
            tenant = self._acting_tenant(call, input)
            if tenant is None:
                return
            if rule is None:
                msg = f"{call} is not available to tenant {tenant!r}: use a client of ALL_TENANTS"
                raise ForbiddenOperationError(msg)
            rule(self._codec, tenant, input)
        except TenantError as error:
            self._note_refusal(call, error)
            raise

    async def _apply_to_start(self, call: str, input: _Input, rule: _StartRule[_Input]) -> None:
        """Apply the rule of a call that leads to new work, if the directory allows it.

        An operator is not stopped by a suspension here, but workers refuse what it starts (B17).
        """
        try:
            tenant = self._acting_tenant(call, input)
            if tenant is None:
                return
            # For each start: a suspension takes effect when the cached answer expires (B17).
            placement = await self._placements.of(tenant)
            if not isinstance(self._tenant, AllTenants):
                placement.require_active()
            if self._namespace is not None:
                placement.require_namespace(self._namespace)
            rule(self._codec, tenant, placement, input)
        except TenantError as error:
            self._note_refusal(call, error)
            raise

    def _acting_tenant(self, call: str, input: object) -> str | None:
        tenant = acting_tenant(call, self._tenant, is_required=self._codec.is_required)
        if tenant is not None or not isinstance(self._tenant, AllTenants):
            return tenant
        # An operator acts for the tenant that the ID's prefix names; global IDs have none.
        server_id = None if self._codec.has_global_ids else workflow_id_of(input)
        return None if server_id is None else owner_of(server_id)

    def _note_refusal(self, call: str, error: TenantError) -> None:
        if self._on_refusal is not None:
            self._on_refusal(call, error)

    async def start_workflow(
        self, input: client.StartWorkflowInput
    ) -> client.WorkflowHandle[Any, Any]:
        await self._apply_to_start("start_workflow", input, _stamp_start)
        return await self.next.start_workflow(input)

    async def start_update_with_start_workflow(
        self, input: client.StartWorkflowUpdateWithStartInput
    ) -> client.WorkflowUpdateHandle[Any]:
        await self._apply_to_start(
            "start_update_with_start_workflow", input, _stamp_update_with_start
        )
        return await self.next.start_update_with_start_workflow(input)

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:
        self._apply("signal_workflow", input, _stamp_message)
        await self.next.signal_workflow(input)

    async def query_workflow(self, input: client.QueryWorkflowInput) -> Any:
        self._apply("query_workflow", input, _stamp_message)
        return await self.next.query_workflow(input)

    async def start_workflow_update(
        self, input: client.StartWorkflowUpdateInput
    ) -> client.WorkflowUpdateHandle[Any]:
        self._apply("start_workflow_update", input, _stamp_message)
        return await self.next.start_workflow_update(input)

    async def cancel_workflow(self, input: client.CancelWorkflowInput) -> None:
        self._apply("cancel_workflow", input, _scope_id)
        await self.next.cancel_workflow(input)

    async def terminate_workflow(self, input: client.TerminateWorkflowInput) -> None:
        self._apply("terminate_workflow", input, _scope_id)
        await self.next.terminate_workflow(input)

    async def describe_workflow(
        self, input: client.DescribeWorkflowInput
    ) -> client.WorkflowExecutionDescription:
        self._apply("describe_workflow", input, _scope_id)
        return await self.next.describe_workflow(input)

    def fetch_workflow_history_events(
        self, input: client.FetchWorkflowHistoryEventsInput
    ) -> client.WorkflowHistoryEventAsyncIterator:
        self._apply("fetch_workflow_history_events", input, _scope_id)
        return self.next.fetch_workflow_history_events(input)

    def list_workflows(
        self, input: client.ListWorkflowsInput
    ) -> client.WorkflowExecutionAsyncIterator:
        self._apply("list_workflows", input, _scoped_by_guard)
        return self.next.list_workflows(input)

    async def count_workflows(
        self, input: client.CountWorkflowsInput
    ) -> client.WorkflowExecutionCount:
        self._apply("count_workflows", input, _scoped_by_guard)
        return await self.next.count_workflows(input)

    async def create_schedule(self, input: client.CreateScheduleInput) -> client.ScheduleHandle:
        await self._apply_to_start("create_schedule", input, _stamp_new_schedule)
        return await self.next.create_schedule(input)

    async def update_schedule(self, input: client.UpdateScheduleInput) -> None:
        await self._apply_to_start("update_schedule", input, _stamp_schedule_update)
        await self.next.update_schedule(input)

    async def describe_schedule(
        self, input: client.DescribeScheduleInput
    ) -> client.ScheduleDescription:
        self._apply("describe_schedule", input, _scope_id)
        return await self.next.describe_schedule(input)

    async def pause_schedule(self, input: client.PauseScheduleInput) -> None:
        self._apply("pause_schedule", input, _scope_id)
        await self.next.pause_schedule(input)

    async def unpause_schedule(self, input: client.UnpauseScheduleInput) -> None:
        await self._apply_to_start("unpause_schedule", input, _scope_schedule_id)
        await self.next.unpause_schedule(input)

    async def trigger_schedule(self, input: client.TriggerScheduleInput) -> None:
        await self._apply_to_start("trigger_schedule", input, _scope_schedule_id)
        await self.next.trigger_schedule(input)

    async def backfill_schedule(self, input: client.BackfillScheduleInput) -> None:
        await self._apply_to_start("backfill_schedule", input, _scope_schedule_id)
        await self.next.backfill_schedule(input)

    async def delete_schedule(self, input: client.DeleteScheduleInput) -> None:
        self._apply("delete_schedule", input, _scope_id)
        await self.next.delete_schedule(input)

    def list_schedules(self, input: client.ListSchedulesInput) -> client.ScheduleAsyncIterator:
        self._apply("list_schedules", input, _scoped_by_guard)
        return self.next.list_schedules(input)

    async def start_activity(self, input: client.StartActivityInput) -> client.ActivityHandle[Any]:
        await self._apply_to_start("start_activity", input, _stamp_activity)
        return await self.next.start_activity(input)

    async def describe_activity(
        self, input: client.DescribeActivityInput
    ) -> client.ActivityExecutionDescription:
        self._apply("describe_activity", input, _scope_activity_id)
        return await self.next.describe_activity(input)

    async def cancel_activity(self, input: client.CancelActivityInput) -> None:
        self._apply("cancel_activity", input, _scope_activity_id)
        await self.next.cancel_activity(input)

    async def terminate_activity(self, input: client.TerminateActivityInput) -> None:
        self._apply("terminate_activity", input, _scope_activity_id)
        await self.next.terminate_activity(input)

    async def pause_activity(self, input: client.PauseActivityInput) -> None:
        self._apply("pause_activity", input, _scope_activity_id)
        await self.next.pause_activity(input)

    async def unpause_activity(self, input: client.UnpauseActivityInput) -> None:
        self._apply("unpause_activity", input, _scope_activity_id)
        await self.next.unpause_activity(input)

    async def update_activity_options(
        self, input: client.UpdateActivityOptionsInput
    ) -> client.ActivityExecutionOptions:
        self._apply("update_activity_options", input, _scope_activity_id)
        return await self.next.update_activity_options(input)

    def list_activities(
        self, input: client.ListActivitiesInput
    ) -> client.ActivityExecutionAsyncIterator:
        self._apply("list_activities", input, _scoped_by_guard)
        return self.next.list_activities(input)

    async def count_activities(
        self, input: client.CountActivitiesInput
    ) -> client.ActivityExecutionCount:
        self._apply("count_activities", input, _scoped_by_guard)
        return await self.next.count_activities(input)

    async def heartbeat_async_activity(self, input: client.HeartbeatAsyncActivityInput) -> None:
        self._apply("heartbeat_async_activity", input, _scope_reference)
        await self.next.heartbeat_async_activity(input)

    async def complete_async_activity(self, input: client.CompleteAsyncActivityInput) -> None:
        self._apply("complete_async_activity", input, _scope_reference)
        await self.next.complete_async_activity(input)

    async def fail_async_activity(self, input: client.FailAsyncActivityInput) -> None:
        self._apply("fail_async_activity", input, _scope_reference)
        await self.next.fail_async_activity(input)

    async def report_cancellation_async_activity(
        self, input: client.ReportCancellationAsyncActivityInput
    ) -> None:
        self._apply("report_cancellation_async_activity", input, _scope_reference)
        await self.next.report_cancellation_async_activity(input)

    # Operators only. A Nexus operation without a workflow has no search attribute on every server
    # yet, so lists could not be confined; worker versions are shared by all tenants.

    async def start_nexus_operation(
        self, input: client.StartNexusOperationInput
    ) -> client.NexusOperationHandle[Any]:
        self._apply("start_nexus_operation", input)
        return await self.next.start_nexus_operation(input)

    async def describe_nexus_operation(
        self, input: client.DescribeNexusOperationInput
    ) -> client.NexusOperationExecutionDescription:
        self._apply("describe_nexus_operation", input)
        return await self.next.describe_nexus_operation(input)

    async def get_nexus_operation_result(self, input: client.GetNexusOperationResultInput) -> Any:
        self._apply("get_nexus_operation_result", input)
        return await self.next.get_nexus_operation_result(input)

    async def cancel_nexus_operation(self, input: client.CancelNexusOperationInput) -> None:
        self._apply("cancel_nexus_operation", input)
        await self.next.cancel_nexus_operation(input)

    async def terminate_nexus_operation(self, input: client.TerminateNexusOperationInput) -> None:
        self._apply("terminate_nexus_operation", input)
        await self.next.terminate_nexus_operation(input)

    def list_nexus_operations(
        self, input: client.ListNexusOperationsInput
    ) -> client.NexusOperationExecutionAsyncIterator:
        self._apply("list_nexus_operations", input)
        return self.next.list_nexus_operations(input)

    async def count_nexus_operations(
        self, input: client.CountNexusOperationsInput
    ) -> client.NexusOperationExecutionCount:
        self._apply("count_nexus_operations", input)
        return await self.next.count_nexus_operations(input)

    async def get_worker_build_id_compatibility(
        self, input: client.GetWorkerBuildIdCompatibilityInput
    ) -> client.WorkerBuildIdVersionSets:
        self._apply("get_worker_build_id_compatibility", input)
        return await self.next.get_worker_build_id_compatibility(input)

    async def update_worker_build_id_compatibility(
        self, input: client.UpdateWorkerBuildIdCompatibilityInput
    ) -> None:
        self._apply("update_worker_build_id_compatibility", input)
        await self.next.update_worker_build_id_compatibility(input)

    async def get_worker_task_reachability(
        self, input: client.GetWorkerTaskReachabilityInput
    ) -> client.WorkerTaskReachability:
        self._apply("get_worker_task_reachability", input)
        return await self.next.get_worker_task_reachability(input)


def workflow_id_of(call: object) -> str | None:
    """The ID on the server that a call's input names, if any."""
    start = getattr(call, "start_workflow_input", call)
    found = getattr(start, "id", None) or getattr(start, "activity_id", None)
    return found if isinstance(found, str) else None


def _stamp_start(
    codec: TenantCodec,
    tenant: str,
    placement: Placement,
    call: client.StartWorkflowInput | client.UpdateWithStartStartWorkflowInput,
) -> None:
    check_id(call.id)
    call.headers = codec.stamp_headers(call.headers, tenant)
    call.memo = codec.stamp_memo(call.memo, tenant)
    call.search_attributes = codec.stamp_attributes(call.search_attributes, tenant)
    call.priority = codec.fair(call.priority, tenant, placement.record)
    call.task_queue = placement.queue(call.task_queue)
    call.id = codec.scope(tenant, call.id)


def _stamp_update_with_start(
    codec: TenantCodec,
    tenant: str,
    placement: Placement,
    call: client.StartWorkflowUpdateWithStartInput,
) -> None:
    # The SDK calls neither start_workflow nor start_workflow_update for this one (T5).
    _stamp_start(codec, tenant, placement, call.start_workflow_input)
    update = call.update_workflow_input
    update.headers = codec.stamp_headers(update.headers, tenant)


def _stamp_message(
    codec: TenantCodec,
    tenant: str,
    call: client.SignalWorkflowInput | client.QueryWorkflowInput | client.StartWorkflowUpdateInput,
) -> None:
    call.headers = codec.stamp_headers(call.headers, tenant)
    call.id = codec.scope(tenant, call.id)


def _scope_id(codec: TenantCodec, tenant: str, call: Any) -> None:
    """Calls that name a workflow or a schedule, and have no place for a tenant (T9)."""
    call.id = codec.scope(tenant, call.id)


def _scope_activity_id(codec: TenantCodec, tenant: str, call: Any) -> None:
    call.activity_id = codec.scope(tenant, call.activity_id)


def _scoped_by_guard(_codec: TenantCodec, _tenant: str, _call: object) -> None:
    """Lists and counts: the guard rewrites their queries, of raw requests too."""


def _stamp_new_schedule(
    codec: TenantCodec, tenant: str, placement: Placement, call: client.CreateScheduleInput
) -> None:
    check_id(call.id)
    call.schedule = _stamped_schedule(codec, tenant, placement, call.schedule)
    call.search_attributes = codec.stamp_attributes(call.search_attributes, tenant)
    call.memo = codec.stamp_memo(call.memo, tenant)
    call.id = codec.scope(tenant, call.id)


def _stamp_schedule_update(
    codec: TenantCodec, tenant: str, placement: Placement, call: client.UpdateScheduleInput
) -> None:
    updater = call.updater

    # An updater may return a fresh action, without what the old one carried (T4).
    async def stamping(described: client.ScheduleUpdateInput) -> client.ScheduleUpdate | None:
        made = updater(described)
        update = await made if inspect.isawaitable(made) else made
        if update is None:
            return None
        attributes = update.search_attributes
        return client.ScheduleUpdate(
            _stamped_schedule(codec, tenant, placement, update.schedule),
            None if attributes is None else codec.stamp_typed(attributes, tenant),
        )

    call.updater = stamping
    call.id = codec.scope(tenant, call.id)


def _scope_schedule_id(codec: TenantCodec, tenant: str, _placement: Placement, call: Any) -> None:
    """Calls that make a schedule start workflows."""
    call.id = codec.scope(tenant, call.id)


def _stamped_schedule(
    codec: TenantCodec, tenant: str, placement: Placement, schedule: client.Schedule
) -> client.Schedule:
    """A copy of the schedule whose action starts workflows of the tenant."""
    action = schedule.action
    if not isinstance(action, client.ScheduleActionStartWorkflow):
        msg = f"schedule action {type(action).__name__} is not supported: start a workflow"
        raise ForbiddenOperationError(msg)
    stamped = copy.copy(action)
    stamped.headers = codec.stamp_headers(action.headers or {}, tenant)
    stamped.memo = codec.stamp_memo(action.memo, tenant)
    stamped.typed_search_attributes = codec.stamp_typed(action.typed_search_attributes, tenant)
    stamped.priority = codec.fair(action.priority, tenant, placement.record)
    stamped.task_queue = placement.queue(action.task_queue)
    stamped.id = codec.scope(tenant, check_id(action.id))
    copied = copy.copy(schedule)
    copied.action = stamped
    return copied


def _stamp_activity(
    codec: TenantCodec, tenant: str, placement: Placement, call: client.StartActivityInput
) -> None:
    check_id(call.id)
    call.headers = codec.stamp_headers(call.headers, tenant)
    attributes = call.search_attributes or TypedSearchAttributes.empty
    call.search_attributes = codec.stamp_typed(attributes, tenant)
    call.priority = codec.fair(call.priority, tenant, placement.record)
    call.task_queue = placement.queue(call.task_queue)
    call.id = codec.scope(tenant, call.id)


def _scope_reference(
    codec: TenantCodec,
    tenant: str,
    call: client.HeartbeatAsyncActivityInput
    | client.CompleteAsyncActivityInput
    | client.FailAsyncActivityInput
    | client.ReportCancellationAsyncActivityInput,
) -> None:
    reference = call.id_or_token
    if isinstance(reference, bytes):  # unsigned, so anyone can rewrite it (B2)
        msg = (
            f"tenant {tenant!r} gave a task token, which does not prove whose activity it names:"
            " complete the activity by workflow ID, run ID and activity ID"
        )
        raise ForbiddenOperationError(msg)
    workflow_id, activity_id = reference.workflow_id, reference.activity_id
    call.id_or_token = client.AsyncActivityIDReference(
        None if workflow_id is None else codec.scope(tenant, workflow_id),
        reference.run_id,
        codec.scope(tenant, activity_id) if workflow_id is None else activity_id,
    )
