"""Workflow side, inside the sandbox: what reaches a run is checked, what it sends is stamped.

What is refused depends on history alone (headers, memo, attribute, ID), so a replay decides the
same. A signal from another tenant is dropped, because an error from a signal handler would end the
workflow or stall its task (T14), and any caller could do that to another tenant's workflow.

This code shares a process with the workflow's own, which can change what it reads. So
`run_commands` verifies every command once more, from outside the sandbox.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    SignalChildWorkflowInput,
    SignalExternalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    StartNexusOperationInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from orkestra.errors import TENANT_MISMATCH, TENANT_REQUIRED, TenantMismatchError
from orkestra.temporal.tenant.stamp import Headers, TenantCodec
from orkestra.tenancy import act_for, scope_id


class TenantWorkflowInbound(WorkflowInboundInterceptor):
    """Checks what reaches a workflow; subclassed once for each codec."""

    codec: ClassVar[TenantCodec]

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        self._tenant: str | None = None
        self._refusal: ApplicationError | None = None
        self._is_read = False  # not yet: `workflow.info()` does not work here (T52)
        super().init(TenantWorkflowOutbound(outbound, self))

    @property
    def tenant(self) -> str | None:
        """The run's tenant, or None where it has none and need not; raises if it is refused."""
        if not self._is_read:
            self._is_read = True
            try:
                self._tenant = self.codec.read_run(workflow.info())
            except TenantMismatchError as error:
                self._refuse(TENANT_MISMATCH, str(error))
            else:
                if self._tenant is None and self.codec.is_required:
                    header = self.codec.header
                    self._refuse(TENANT_REQUIRED, f"it was started without header {header!r}")
        if self._refusal is not None:
            raise self._refusal
        return self._tenant

    def _refuse(self, kind: str, problem: str) -> None:
        self._refusal = _refusal(kind, f"workflow refused: {problem}")
        _count_refused("workflows", kind, self.codec.labels.of(None))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        act_for(self.tenant)
        return await super().execute_workflow(input)

    # With signal-with-start this runs before execute_workflow(), in a task of its own (T17).
    async def handle_signal(self, input: HandleSignalInput) -> None:
        try:
            tenant = self.tenant
            problem = self.codec.message_problem(input.headers, tenant)
        except ApplicationError:
            tenant, problem = None, "the workflow itself is refused"
        # Dropped, not failed: an error here would end the workflow or stall its task (T14).
        if problem is not None:
            workflow.logger.warning("Dropped signal %r: %s", input.signal, problem)
            counter = workflow.metric_meter().create_counter(
                "orkestra_dropped_signals", "Signals dropped for their tenant"
            )
            counter.add(1, self.codec.labels.of(tenant))
            return
        act_for(tenant)
        await super().handle_signal(input)

    async def handle_query(self, input: HandleQueryInput) -> Any:
        if input.query not in self.codec.settings.built_in_queries:  # B25
            self._admit("query", input.query, input.headers)
        return await super().handle_query(input)

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        self._admit("update", input.update, input.headers)
        super().handle_update_validator(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """Checked here, too, because an update may have no validator (T15)."""
        self._admit("update", input.update, input.headers)
        return await super().handle_update_handler(input)

    def _admit(self, kind: str, name: str, headers: Headers) -> None:
        tenant = self.tenant
        problem = self.codec.message_problem(headers, tenant)
        if problem is not None:
            _count_refused("messages", kind, self.codec.labels.of(tenant))
            raise _refusal(TENANT_MISMATCH, f"{kind} {name!r} refused: {problem}")
        act_for(tenant)


class TenantWorkflowOutbound(WorkflowOutboundInterceptor):
    """Carries the tenant into everything a workflow starts or signals."""

    def __init__(self, next: WorkflowOutboundInterceptor, inbound: TenantWorkflowInbound) -> None:
        super().__init__(next)
        self._inbound = inbound
        self._codec = inbound.codec

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        self._stamp(input)
        super().continue_as_new(input)

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:
        self._stamp(input)
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
        self._stamp(input)
        input.workflow_id = self._scope(input.workflow_id)
        await super().signal_external_workflow(input)

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        self._stamp(input)
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        """Local activities have neither priority nor queue (T10)."""
        self._stamp(input)
        return super().start_local_activity(input)

    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        self._stamp(input)
        input.id = self._scope(input.id)
        return await super().start_child_workflow(input)

    async def start_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        tenant = self._inbound.tenant
        if tenant is not None:
            input.headers = self._codec.stamp_nexus_headers(input.headers, tenant)
        return await super().start_nexus_operation(input)

    async def start_system_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        """Refused, as nothing in these operations can be confined to a tenant."""
        self._refuse_to_tenants(f"system operation {input.operation_name!r}")
        return await super().start_system_nexus_operation(input)

    async def start_signal_with_start_workflow(self, request: Any) -> Any:
        """Refused as all system operations are."""
        self._refuse_to_tenants("signal-with-start from a workflow")
        return await super().start_signal_with_start_workflow(request)

    def _stamp(
        self,
        call: ContinueAsNewInput
        | SignalChildWorkflowInput
        | SignalExternalWorkflowInput
        | StartActivityInput
        | StartLocalActivityInput
        | StartChildWorkflowInput,
    ) -> None:
        """Write the tenant into every place that a command has."""
        tenant, codec = self._inbound.tenant, self._codec
        if tenant is None:
            return
        try:
            call.headers = codec.stamp_headers(call.headers, tenant)
            if isinstance(call, StartActivityInput | StartChildWorkflowInput):
                inherited = workflow.info().priority
                call.priority = codec.fair_inside(call.priority, tenant, inherited)
            if isinstance(call, StartChildWorkflowInput):
                call.search_attributes = codec.stamp_attributes(call.search_attributes, tenant)
                call.memo = codec.stamp_memo(call.memo, tenant)
            elif isinstance(call, ContinueAsNewInput):
                # What is not given is inherited, unlike headers (T1).
                if call.search_attributes is not None:
                    call.search_attributes = codec.stamp_attributes(call.search_attributes, tenant)
                if call.memo is not None:
                    call.memo = codec.stamp_memo(call.memo, tenant)
        except TenantMismatchError as error:
            raise _refusal(TENANT_MISMATCH, str(error)) from error

    def _scope(self, workflow_id: str) -> str:
        """Scope as this run's own ID is, so that an unscoped run replays without the plugin."""
        tenant, own_id = self._inbound.tenant, workflow.info().workflow_id
        if tenant is None or not self._codec.is_scoped(tenant, own_id):
            return workflow_id
        return scope_id(tenant, workflow_id)

    def _refuse_to_tenants(self, what: str) -> None:
        if self._inbound.tenant is not None:
            raise _refusal(TENANT_MISMATCH, f"{what} is not available to a tenant")


def _refusal(kind: str, message: str) -> ApplicationError:
    """The error that ends a workflow, an update or a query for good (T13)."""
    return ApplicationError(message, type=kind, non_retryable=True)


def _count_refused(what: str, kind: str, labels: Mapping[str, str]) -> None:
    meter = workflow.metric_meter()
    counter = meter.create_counter(f"orkestra_refused_{what}", f"Refused {what}, by kind")
    counter.add(1, {"kind": kind, **labels})
