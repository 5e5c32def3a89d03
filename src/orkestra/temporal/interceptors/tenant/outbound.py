"""The client's side: no call leaves without its tenant, and every ID is the tenant's own.

Calls that have no rule here are refused on a tenant's client, so that a new SDK call is never let
through by accident.
"""

from typing import Any, Final, TypeVar

from temporalio.client import (
    CancelWorkflowInput,
    DescribeWorkflowInput,
    FetchWorkflowHistoryEventsInput,
    OutboundInterceptor,
    QueryWorkflowInput,
    SignalWorkflowInput,
    StartWorkflowInput,
    StartWorkflowUpdateInput,
    StartWorkflowUpdateWithStartInput,
    TerminateWorkflowInput,
    UpdateWithStartStartWorkflowInput,
    WorkflowExecutionDescription,
    WorkflowHandle,
    WorkflowHistoryEventAsyncIterator,
    WorkflowUpdateHandle,
)

from orkestra.errors import ForbiddenOperationError, TenantMismatchError, TenantRequiredError
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.tenancy import AllTenants, check_id, current_tenant, owner_of, scope_id

_StartInput = TypeVar("_StartInput", StartWorkflowInput, UpdateWithStartStartWorkflowInput)
_MessageInput = TypeVar(
    "_MessageInput", SignalWorkflowInput, QueryWorkflowInput, StartWorkflowUpdateInput
)
_ReachInput = TypeVar(
    "_ReachInput",
    CancelWorkflowInput,
    DescribeWorkflowInput,
    FetchWorkflowHistoryEventsInput,
    TerminateWorkflowInput,
)


class TenantClientOutbound(OutboundInterceptor):
    """Stamps, scopes or refuses every call of one client."""

    def __init__(
        self, next: OutboundInterceptor, policy: TenantPolicy, tenant: str | AllTenants | None
    ) -> None:
        """Act for the tenant; None means the tenant of the running code."""
        super().__init__(next)
        self._policy = policy
        self._tenant = tenant

    def acting_tenant(self, call: str, server_id: str | None = None) -> str | None:
        """The tenant that a call acts for, or None where it may go without one.

        Args:
            call: What is attempted, for the error.
            server_id: The ID it names; an operator acts for the tenant in its prefix.

        Raises:
            TenantRequiredError: There is none and there must be one.
            TenantMismatchError: The client is bound to one tenant and the code acts for another.
        """
        running = current_tenant()
        if isinstance(self._tenant, AllTenants):
            return running or (owner_of(server_id) if server_id else None)
        if self._tenant is not None and running not in (None, self._tenant):
            msg = f"{call}: the client is bound to {self._tenant!r}, this code acts for {running!r}"
            raise TenantMismatchError(msg)
        tenant = self._tenant or running
        if tenant is None and self._policy.is_required:
            msg = f"{call} needs a tenant: use a client made with tenant=..., or tenant_scope(...)"
            raise TenantRequiredError(msg)
        return tenant

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        """See base class."""
        self._stamp_start(input, "start_workflow")
        return await super().start_workflow(input)

    async def start_update_with_start_workflow(
        self, input: StartWorkflowUpdateWithStartInput
    ) -> WorkflowUpdateHandle[Any]:
        """See base class."""
        tenant = self._stamp_start(input.start_workflow_input, "update_with_start_workflow")
        update = input.update_workflow_input
        if tenant is not None:
            update.headers = self._policy.stamp_headers(update.headers, tenant)
        return await super().start_update_with_start_workflow(input)

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:
        """See base class."""
        await super().signal_workflow(self._stamp_message(input, "signal_workflow"))

    async def query_workflow(self, input: QueryWorkflowInput) -> Any:
        """See base class."""
        return await super().query_workflow(self._stamp_message(input, "query_workflow"))

    async def start_workflow_update(
        self, input: StartWorkflowUpdateInput
    ) -> WorkflowUpdateHandle[Any]:
        """See base class."""
        return await super().start_workflow_update(self._stamp_message(input, "update_workflow"))

    async def cancel_workflow(self, input: CancelWorkflowInput) -> None:
        """See base class."""
        await super().cancel_workflow(self._scope(input, "cancel_workflow"))

    async def terminate_workflow(self, input: TerminateWorkflowInput) -> None:
        """See base class."""
        await super().terminate_workflow(self._scope(input, "terminate_workflow"))

    async def describe_workflow(self, input: DescribeWorkflowInput) -> WorkflowExecutionDescription:
        """See base class."""
        return await super().describe_workflow(self._scope(input, "describe_workflow"))

    def fetch_workflow_history_events(
        self, input: FetchWorkflowHistoryEventsInput
    ) -> WorkflowHistoryEventAsyncIterator:
        """See base class."""
        return super().fetch_workflow_history_events(self._scope(input, "fetch_workflow_history"))

    def _stamp_start(self, start: _StartInput, call: str) -> str | None:
        check_id(start.id)
        tenant = self.acting_tenant(call, start.id)
        if tenant is not None:
            policy = self._policy
            start.headers = policy.stamp_headers(start.headers, tenant)
            start.memo = policy.stamp_memo(start.memo, tenant)
            start.search_attributes = policy.stamp_attributes(start.search_attributes, tenant)
            start.priority = policy.fair(start.priority, tenant)
            start.id = scope_id(tenant, start.id)
        return tenant

    def _stamp_message(self, message: _MessageInput, call: str) -> _MessageInput:
        tenant = self.acting_tenant(call, message.id)
        if tenant is not None:
            message.headers = self._policy.stamp_headers(message.headers, tenant)
            message.id = scope_id(tenant, message.id)
        return message

    def _scope(self, reach: _ReachInput, call: str) -> _ReachInput:
        tenant = self.acting_tenant(call, reach.id)
        if tenant is not None:
            reach.id = scope_id(tenant, reach.id)
        return reach


REFUSED_CALLS: Final = (
    "backfill_schedule",
    "cancel_activity",
    "cancel_nexus_operation",
    "complete_async_activity",
    "count_activities",
    "count_nexus_operations",
    "count_workflows",
    "create_schedule",
    "delete_schedule",
    "describe_activity",
    "describe_nexus_operation",
    "describe_schedule",
    "fail_async_activity",
    "get_nexus_operation_result",
    "get_worker_build_id_compatibility",
    "get_worker_task_reachability",
    "heartbeat_async_activity",
    "list_activities",
    "list_nexus_operations",
    "list_schedules",
    "list_workflows",
    "pause_activity",
    "pause_schedule",
    "report_cancellation_async_activity",
    "start_activity",
    "start_nexus_operation",
    "terminate_activity",
    "terminate_nexus_operation",
    "trigger_schedule",
    "unpause_activity",
    "unpause_schedule",
    "update_activity_options",
    "update_schedule",
    "update_worker_build_id_compatibility",
)
"""Calls without a rule: only operators, and code without a tenant in optional mode, make them."""


def _refused(call: str) -> Any:
    def method(self: TenantClientOutbound, input: Any) -> Any:
        tenant = self.acting_tenant(call)
        if tenant is not None:
            msg = f"{call} is not available to tenant {tenant!r}: use a client of ALL_TENANTS"
            raise ForbiddenOperationError(msg)
        return getattr(self.next, call)(input)

    method.__name__ = call
    return method


for _call in REFUSED_CALLS:
    setattr(TenantClientOutbound, _call, _refused(_call))
