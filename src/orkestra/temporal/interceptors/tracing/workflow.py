"""The workflow's side, inside the sandbox: pure, and silent under replay."""

from functools import partial
from typing import Any, ClassVar, NoReturn

from temporalio import workflow
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

from orkestra.temporal.interceptors.tracing.header import write_header, write_nexus_header
from orkestra.temporal.interceptors.tracing.outcomes import (
    outcome_of_attempt,
    outcome_of_handler,
    outcome_of_run,
)
from orkestra.temporal.interceptors.tracing.run import RunOptions, RunTrace
from orkestra.tracing import Outcome


class TracingWorkflowInbound(WorkflowInboundInterceptor):
    """Makes the spans of a run, its signals and its updates; subclassed once for each sink."""

    options: ClassVar[RunOptions]

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """See base class."""
        self._run = RunTrace(self.options)
        super().init(TracingWorkflowOutbound(outbound, self._run))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        """See base class."""
        span = self._run.of_workflow(input.args)
        try:
            result = await super().execute_workflow(input)
        except BaseException as error:
            self._run.emit(lambda: span, partial(outcome_of_run, error))
            raise
        self._run.emit_result(lambda: span, result, status="completed")
        return result

    async def handle_signal(self, input: HandleSignalInput) -> None:
        """See base class."""
        span = self._run.of_signal(input)
        try:
            await super().handle_signal(input)
        except BaseException as error:
            self._run.emit(span, partial(outcome_of_handler, error))
            raise
        self._run.emit(span, Outcome)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """See base class."""
        span = self._run.of_update(input)
        try:
            result = await super().handle_update_handler(input)
        except BaseException as error:
            self._run.emit(span, partial(outcome_of_handler, error))
            raise
        self._run.emit_result(span, result)
        return result

    async def handle_query(self, input: HandleQueryInput) -> Any:
        """See base class; the built-in queries have no spans."""
        if not self.options.queries or input.query.startswith("__"):
            return await super().handle_query(input)
        start_ns = self._run.wall_ns()
        try:
            result = await super().handle_query(input)
        except Exception as error:
            self._run.emit_query(input, start_ns, outcome_of_attempt(error))
            raise
        self._run.emit_query(input, start_ns, Outcome(output=self._run.result(result)))
        return result


class TracingWorkflowOutbound(WorkflowOutboundInterceptor):
    """Carries the trace into everything a workflow starts or signals."""

    def __init__(self, next: WorkflowOutboundInterceptor, run: RunTrace) -> None:
        """Carry the trace of the run."""
        super().__init__(next)
        self._run = run

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_next_run())
        super().continue_as_new(input)

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_message())
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_message())
        await super().signal_external_workflow(input)

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_activity())
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_local_activity())
        return super().start_local_activity(input)

    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_child())
        return await super().start_child_workflow(input)

    async def start_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        """See base class."""
        input.headers = write_nexus_header(input.headers, self._run.for_operation())
        return await super().start_nexus_operation(input)
