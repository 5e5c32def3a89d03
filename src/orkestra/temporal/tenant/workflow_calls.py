"""The workflow's side, inside the sandbox: pure, and the same under replay.

What is refused depends on history alone (headers, memo, attribute, ID). A signal from elsewhere is
dropped, because an error from a signal handler would end the workflow or stall its task.
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
from orkestra.temporal.tenant.stamp import Headers, TenantPolicy
from orkestra.tenancy import act_for, scope_id


class _Tenancy:
    """What one workflow run knows of its tenant, read once and before any of its own code."""

    def __init__(self, policy: TenantPolicy) -> None:
        self.policy = policy
        self._tenant: str | None = None
        self._refusal: ApplicationError | None = None
        self._is_read = False

    @property
    def tenant(self) -> str | None:
        """The run's tenant; None where it has none and need not.

        Raises:
            ApplicationError: The run is refused.
        """
        if not self._is_read:
            self._is_read = True
            try:
                self._tenant = self.policy.read_run(workflow.info())
            except TenantMismatchError as error:
                self._refusal = refusal(TENANT_MISMATCH, f"workflow refused: {error}")
            if self._tenant is None and self._refusal is None and self.policy.is_required:
                message = f"workflow refused: it was started without header {self.policy.header!r}"
                self._refusal = refusal(TENANT_REQUIRED, message)
            if self._refusal is not None:
                _count_refused(
                    "workflows", self._refusal.type or "", self.policy.labels.of(self._tenant)
                )
        if self._refusal is not None:
            raise self._refusal
        return self._tenant

    def problem(self, headers: Headers) -> str | None:
        """Why a message with these headers is not for this run; None where it is."""
        tenant = self.tenant
        try:
            sender = self.policy.read_header(headers)
        except TenantMismatchError as error:
            return str(error)
        if sender == tenant:
            return None
        if sender is None:
            return "it has no tenant" if self.policy.is_required else None
        return "it comes from another tenant"


class TenantWorkflowInbound(WorkflowInboundInterceptor):
    """Checks what reaches a workflow; subclassed once for each policy."""

    policy: ClassVar[TenantPolicy]

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """See base class."""
        self._tenancy = _Tenancy(self.policy)
        super().init(TenantWorkflowOutbound(outbound, self._tenancy))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        """See base class."""
        act_for(self._tenancy.tenant)
        return await super().execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        """See base class."""
        try:
            problem = self._tenancy.problem(input.headers)
        except ApplicationError:
            problem = "the workflow itself is refused"
        if problem is not None:
            self._drop(input.signal, problem)
            return
        act_for(self._tenancy.tenant)
        await super().handle_signal(input)

    async def handle_query(self, input: HandleQueryInput) -> Any:
        """See base class."""
        if input.query not in self.policy.settings.built_in_queries:
            self._admit("query", input.query, input.headers)
        return await super().handle_query(input)

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        """See base class."""
        self._admit("update", input.update, input.headers)
        super().handle_update_validator(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """See base class; repeated here because updates without a validator skip the other."""
        self._admit("update", input.update, input.headers)
        return await super().handle_update_handler(input)

    def _admit(self, kind: str, name: str, headers: Headers) -> None:
        problem = self._tenancy.problem(headers)
        if problem is not None:
            _count_refused("messages", kind, self._labels())
            message = f"{kind} {name!r} refused: {problem}"
            raise refusal(TENANT_MISMATCH, message)
        act_for(self._tenancy.tenant)

    def _drop(self, signal: str, problem: str) -> None:
        workflow.logger.warning("Dropped signal %r: %s", signal, problem)
        meter = workflow.metric_meter()
        meter.create_counter("orkestra_dropped_signals", "Signals dropped for their tenant").add(
            1, self._labels()
        )

    def _labels(self) -> Mapping[str, str]:
        try:
            return self.policy.labels.of(self._tenancy.tenant)
        except ApplicationError:
            return self.policy.labels.of(None)


class TenantWorkflowOutbound(WorkflowOutboundInterceptor):
    """Carries the tenant into everything a workflow starts or signals."""

    def __init__(self, next: WorkflowOutboundInterceptor, tenancy: _Tenancy) -> None:
        """Carry the tenant that `tenancy` reads."""
        super().__init__(next)
        self._tenancy = tenancy

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        """See base class."""
        self._stamp(input)
        tenant = self._tenancy.tenant
        if tenant is not None:
            if input.search_attributes is not None:
                input.search_attributes = self._attributes(input.search_attributes, tenant)
            if input.memo is not None:
                input.memo = self._memo(input.memo, tenant)
        super().continue_as_new(input)

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:
        """See base class."""
        self._stamp(input)
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
        """See base class."""
        self._stamp(input)
        input.workflow_id = self._scope(input.workflow_id)
        await super().signal_external_workflow(input)

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        self._stamp(input)
        self._prioritise(input)
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        self._stamp(input)
        return super().start_local_activity(input)

    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        """See base class."""
        self._stamp(input)
        self._prioritise(input)
        input.id = self._scope(input.id)
        tenant = self._tenancy.tenant
        if tenant is not None:
            input.search_attributes = self._attributes(input.search_attributes, tenant)
            input.memo = self._memo(input.memo, tenant)
        return await super().start_child_workflow(input)

    async def start_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        """See base class."""
        tenant = self._tenancy.tenant
        if tenant is not None:
            ours = self._tenancy.policy.header.lower()
            others = {k: v for k, v in (input.headers or {}).items() if k.lower() != ours}
            input.headers = {**others, ours: tenant}
        return await super().start_nexus_operation(input)

    async def start_system_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        """See base class; refused, as nothing in these operations can be confined to a tenant."""
        if self._tenancy.tenant is not None:
            message = f"system operation {input.operation_name!r} is not available to a tenant"
            raise refusal(TENANT_MISMATCH, message)
        return await super().start_system_nexus_operation(input)

    async def start_signal_with_start_workflow(self, request: Any) -> Any:
        """See base class; refused as all system operations are."""
        if self._tenancy.tenant is not None:
            message = "signal-with-start from a workflow is not available to a tenant"
            raise refusal(TENANT_MISMATCH, message)
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
        tenant = self._tenancy.tenant
        if tenant is None:
            return
        try:
            call.headers = self._tenancy.policy.stamp_headers(call.headers, tenant)
        except TenantMismatchError as error:
            raise refusal(TENANT_MISMATCH, str(error)) from error

    def _prioritise(self, call: StartActivityInput | StartChildWorkflowInput) -> None:
        tenant = self._tenancy.tenant
        if tenant is not None:
            inherited = workflow.info().priority
            call.priority = self._tenancy.policy.fair_inside(call.priority, tenant, inherited)

    def _attributes(self, attributes: Any, tenant: str) -> Any:
        try:
            return self._tenancy.policy.stamp_attributes(attributes, tenant)
        except TenantMismatchError as error:
            raise refusal(TENANT_MISMATCH, str(error)) from error

    def _memo(self, memo: Mapping[str, Any] | None, tenant: str) -> Mapping[str, Any] | None:
        try:
            return self._tenancy.policy.stamp_memo(memo, tenant)
        except TenantMismatchError as error:
            raise refusal(TENANT_MISMATCH, str(error)) from error

    def _scope(self, workflow_id: str) -> str:
        """Scope as this run's own ID is, so that an unscoped run replays without the plugin."""
        tenant, own_id = self._tenancy.tenant, workflow.info().workflow_id
        if tenant is None or not self._tenancy.policy.is_scoped(tenant, own_id):
            return workflow_id
        return scope_id(tenant, workflow_id)


def refusal(kind: str, message: str) -> ApplicationError:
    """The error that ends a workflow, an update, a query or an activity for good."""
    return ApplicationError(message, type=kind, non_retryable=True)


def _count_refused(what: str, kind: str, labels: Mapping[str, str]) -> None:
    meter = workflow.metric_meter()
    counter = meter.create_counter(f"orkestra_refused_{what}", f"Refused {what}, by kind")
    counter.add(1, {"kind": kind, **labels})
