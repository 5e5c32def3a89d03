"""Whether a run may begin here: asked once, on its first task, and never again under replay.

The first run of a chain that may not begin fails for good. A later one (continue-as-new, a retry)
belongs to work that was let in once, so it waits: its task fails and is tried again, until the
directory says otherwise. Each run of a cron schedule counts as a first one.

What arrives at a worker besides workflows: whether its tenant belongs here.

Refusing on the workflow's thread: what is wrong, and whether it ends the workflow.

What the directory says is not in the history. So a refusal that rests on it leaves a marker there,
the one that `workflow.patched()` makes: a replay is told of it beforehand, and refuses without
asking anybody.

Asking from the workflow's thread, which may wait a moment for the event loop but not longer.

The SDK gives an activation two seconds before it calls the workflow deadlocked. Whatever has not
come by then fails the workflow task, which the server tries again; the answer is there by then.

What arrives without a tenant while it is let through: counted, so that one can see it end.

A system that is moved over runs in mode `optional` until these counts stand still.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from temporalio.api.enums.v1 import ContinueAsNewInitiator
from temporalio.api.failure.v1 import Failure
from temporalio.common import MetricMeter
from temporalio.worker import WorkflowInstanceDetails

from orkestra.directory import Placement, Placements, TenantLabels
from orkestra.errors import (
    TENANT_MISMATCH,
    TENANT_SUSPENDED,
    TENANT_UNDECIDED,
    TENANT_UNKNOWN,
    DirectoryUnavailableError,
    TenantSuspendedError,
    UnknownTenantError,
)
from orkestra.temporal._sdk import (
    METRIC_METER_FUNCTION,
    InitializeWorkflow,
    WorkflowActivation,
    WorkflowActivationCompletion,
    WorkflowActivationJob,
)

RUN: Final = "orkestra-refused-run:"
COMMAND: Final = "orkestra-refused-command:"


@dataclass(frozen=True)
class Verdict:
    """Why a run may not go on as it would.

    Attributes:
        kind: `ApplicationError.type` of the failure.
        problem: What is wrong, and how to mend it.
        marker: What history has to say of it before the kind; empty where it follows from history.
    """

    kind: str
    problem: str
    marker: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the workflow fails, and not just its task, which is tried again."""
        return self.kind != TENANT_UNDECIDED

    def completion(self) -> WorkflowActivationCompletion:
        """What an activation leads to that this verdict stops before any workflow code runs."""
        completion = WorkflowActivationCompletion()
        completion.successful.SetInParent()
        self.write(completion)
        return completion

    def write(self, completion: WorkflowActivationCompletion) -> None:
        """Put the failure in place of everything that the activation led to."""
        if not self.is_final:
            completion.failed.SetInParent()
            self._fill(completion.failed.failure)
            return
        commands = completion.successful.commands
        del commands[:]
        if self.marker:
            commands.add().set_patch_marker.patch_id = f"{self.marker}{self.kind}"
        self._fill(commands.add().fail_workflow_execution.failure)

    def answers(self, activation: WorkflowActivation) -> WorkflowActivationCompletion:
        """What queries get of a run that was refused, for it has no code to ask."""
        completion = WorkflowActivationCompletion()
        completion.successful.SetInParent()
        for job in activation.jobs:
            if job.HasField("query_workflow"):
                result = completion.successful.commands.add().respond_to_query
                result.query_id = job.query_workflow.query_id
                self._fill(result.failed)
        return completion

    def _fill(self, failure: Failure) -> None:
        failure.message = self.problem
        failure.source = "Orkestra"
        failure.application_failure_info.type = self.kind
        failure.application_failure_info.non_retryable = self.is_final


def recorded_verdict(activation: WorkflowActivation, marker: str) -> Verdict | None:
    """The refusal that history tells of the task that is replayed, or None.

    Args:
        activation: The first activation of the task.
        marker: `RUN` or `COMMAND`.
    """
    for job in activation.jobs:
        patch = job.notify_has_patch.patch_id
        if patch.startswith(marker):
            return Verdict(patch.removeprefix(marker), "workflow refused when it ran", marker)
    return None


@dataclass(frozen=True)
class Arrivals:
    """Asks the directory about activities and Nexus operations.

    Attributes:
        placements: Where tenants belong.
        tenants: The tenants that the worker serves; None means all.
    """

    placements: Placements
    tenants: Collection[str] | None = None

    def is_misplaced(self, tenant: str | None) -> bool:
        """Whether the work is of a tenant that this worker does not serve."""
        return self.tenants is not None and tenant not in self.tenants

    async def verdict(
        self, tenant: str | None, *, namespace: str, task_queue: str, is_start: bool
    ) -> Verdict | None:
        """Why the work is not done here, or None where it is.

        Args:
            tenant: Whose work it is, if anyone's.
            namespace: Namespace of the worker.
            task_queue: Queue of the worker.
            is_start: Whether the work is not part of something older, as a workflow.
        """
        if self.is_misplaced(tenant):
            return Verdict(TENANT_UNDECIDED, misplaced(task_queue, tenant))
        if tenant is None or self.placements.is_open:
            return None
        try:
            placement = await self.placements.of(tenant)
            if is_start:
                placement.require_active()
        except DirectoryUnavailableError as error:
            return Verdict(TENANT_UNDECIDED, str(error))
        except UnknownTenantError as error:
            return Verdict(TENANT_UNKNOWN, str(error))
        except TenantSuspendedError as error:
            return Verdict(TENANT_SUSPENDED, str(error))
        problem = placement.problem(namespace, task_queue, is_start=is_start)
        return None if problem is None else Verdict(TENANT_MISMATCH, problem)


_Answer = TypeVar("_Answer")

_LONGEST: Final = 1.0
_BUDGET: Final = 1.6


class _DebuggedError(DirectoryUnavailableError):
    """The SDK's debug mode activates on the loop's own thread: waiting would be for ever."""


class Asking:
    """Asks the directory and the server for one run; made on the worker's event loop.

    Args:
        placements: Where tenants belong.
    """

    def __init__(self, placements: Placements) -> None:
        self._placements = placements
        self._started = 0.0
        self._placement: Placement | None = None
        self._thread = threading.get_ident()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # a workflow is validated, and nothing will be asked
            self._loop = None

    def start(self) -> None:
        """Begin an activation, whose time counts for all questions together."""
        self._started = time.monotonic()
        self._placement = None

    def placement(self, tenant: str) -> Placement:
        """Where the run's tenant belongs, the same for all of an activation.

        Raises:
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: It gave no answer in time.
        """
        if self._placement is None:
            self._placement = self._placements.remembered(tenant) or self._ask(tenant)
        return self._placement

    def _ask(self, tenant: str) -> Placement:
        try:
            return self.wait_for(lambda: self._placements.of(tenant))
        except _DebuggedError:
            last = self._placements.last(tenant)
            if last is None:
                raise
            return last

    def wait_for(self, question: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """Run a coroutine on the event loop and wait for what it returns.

        Raises:
            DirectoryUnavailableError: It took too long.
        """
        patience = min(_LONGEST, self._started + _BUDGET - time.monotonic())
        if self._loop is None or patience <= 0:
            msg = "there is no time left in this activation to ask whose work this is"
            raise DirectoryUnavailableError(msg)
        future = asyncio.run_coroutine_threadsafe(question(), self._loop)
        if threading.get_ident() == self._thread:
            msg = "in debug mode whose work this is cannot be awaited, only asked for the next try"
            raise _DebuggedError(msg)
        try:
            return future.result(patience)
        except TimeoutError:
            future.cancel()
            msg = f"it did not become known within {patience:.1f} s whose work this is"
            raise DirectoryUnavailableError(msg) from None


_logger: Final = logging.getLogger(__name__)

_BEGINNINGS: Final = frozenset(
    {
        ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_UNSPECIFIED,
        ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE,
    }
)


class Admission:
    """Decides over the first task of one run.

    Args:
        details: What the SDK knows of the run.
        tenant: The run's tenant.
        asking: Asks the directory.
        labels: What is counted under.
    """

    def __init__(
        self,
        details: WorkflowInstanceDetails,
        tenant: str,
        asking: Asking,
        labels: TenantLabels,
    ) -> None:
        self._labels = labels
        self._info = details.info
        self._tenant = tenant
        self._asking = asking
        self._meter = meter_of(details)

    def verdict(self, activation: WorkflowActivation) -> Verdict | None:
        """Why the run may not begin here, or None where it may or has begun long ago."""
        first = _first_task(activation)
        if first is None:
            return None
        is_start = first.continued_initiator in _BEGINNINGS
        verdict = self._judge(is_start=is_start)
        if verdict is not None:
            self._report(verdict)
        return verdict

    def _judge(self, *, is_start: bool) -> Verdict | None:
        try:
            placement = self._asking.placement(self._tenant)
            if (problem := self._place_problem(placement, is_start=is_start)) is not None:
                verdict = Verdict(TENANT_MISMATCH, f"workflow refused: {problem}", RUN)
            else:
                placement.require_active()
                return None
        except DirectoryUnavailableError as error:
            return Verdict(TENANT_UNDECIDED, f"workflow waits: {error}")
        except UnknownTenantError as error:
            verdict = Verdict(TENANT_UNKNOWN, f"workflow refused: {error}", RUN)
        except TenantSuspendedError as error:
            verdict = Verdict(TENANT_SUSPENDED, f"workflow refused: {error}", RUN)
        if is_start:
            return verdict
        return Verdict(TENANT_UNDECIDED, f"a later run of this workflow waits: {verdict.problem}")

    def _place_problem(self, placement: Placement, *, is_start: bool) -> str | None:
        info = self._info
        return placement.problem(info.namespace, info.task_queue, is_start=is_start)

    def _report(self, verdict: Verdict) -> None:
        info = self._info
        _logger.warning("%s (ID %r, run %s)", verdict.problem, info.workflow_id, info.run_id)
        name, text = "orkestra_refused_workflows", "Workflows that were not let in"
        self._meter.create_counter(name, text).add(
            1, {"kind": verdict.kind} | self._labels.of(self._tenant)
        )


class Limit:
    """Keeps a worker to some tenants: the work of others is left for those who serve them.

    Args:
        details: What the SDK knows of the run.
        tenants: The tenants that the worker serves.
        labels: What is counted under.
    """

    def __init__(
        self, details: WorkflowInstanceDetails, tenants: Collection[str], labels: TenantLabels
    ) -> None:
        self._labels = labels
        self._info = details.info
        self._tenants = tenants
        self._meter = meter_of(details)

    def verdict(self, tenant: str | None) -> Verdict | None:
        """Why this worker does not touch the run, or None where it serves the tenant."""
        if tenant in self._tenants:
            return None
        info = self._info
        problem = misplaced(info.task_queue, tenant)
        _logger.error("%s (workflow %r, run %s)", problem, info.workflow_id, info.run_id)
        count_misplaced(self._meter, self._labels.of(tenant))
        return Verdict(TENANT_UNDECIDED, problem)


def misplaced(task_queue: str, tenant: str | None) -> str:
    """What to say of work that a worker of other tenants got."""
    return (
        f"misconfiguration: a worker of some tenants got work of {tenant!r} from task queue"
        f" {task_queue!r}: start a worker of this tenant there, or change the directory back"
    )


def count_misplaced(meter: MetricMeter, labels: Mapping[str, str]) -> None:
    """Count a task that a worker of other tenants got."""
    text = "Tasks that a worker of other tenants got"
    meter.create_counter("orkestra_misplaced_tasks", text).add(1, labels)


def _first_task(activation: WorkflowActivation) -> InitializeWorkflow | None:
    if activation.is_replaying:
        return None
    jobs = (
        job.initialize_workflow for job in activation.jobs if job.HasField("initialize_workflow")
    )
    return next(jobs, None)


def meter_of(details: WorkflowInstanceDetails) -> MetricMeter:
    """The meter that `workflow.metric_meter()` gives to workflow code."""
    functions: Mapping[str, Callable[..., object]]
    functions = details.extern_functions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - the SDK leaves them untyped
    make = functions.get(METRIC_METER_FUNCTION)
    made = None if make is None else make()
    return made if isinstance(made, MetricMeter) else MetricMeter.noop


class Untenanted:
    """Counts the start and the messages of one run that have no tenant.

    Args:
        details: What the SDK knows of the run.
        header: The header that would name the tenant.
        tenant: The run's tenant, if any.
    """

    def __init__(self, details: WorkflowInstanceDetails, header: str, tenant: str | None) -> None:
        self._info = details.info
        self._header = header
        self._tenant = tenant
        self._meter = meter_of(details)

    def count(self, activation: WorkflowActivation) -> None:
        """Count what is new in an activation."""
        for kind, name in self._found(activation):
            _logger.info("%s %r without a tenant (ID %r)", kind, name, self._info.workflow_id)
            count_untenanted(self._meter, kind)

    def _found(self, activation: WorkflowActivation) -> Iterator[tuple[str, str]]:
        for job in activation.jobs:
            if job.HasField("query_workflow"):  # never replayed, whatever the activation says
                if self._header not in job.query_workflow.headers:
                    yield "query", job.query_workflow.query_type
            elif not activation.is_replaying and (found := self._new(job)) is not None:
                yield found

    def _new(self, job: WorkflowActivationJob) -> tuple[str, str] | None:
        if job.HasField("initialize_workflow") and self._tenant is None:
            return "workflow", job.initialize_workflow.workflow_type
        if job.HasField("signal_workflow") and self._header not in job.signal_workflow.headers:
            return "signal", job.signal_workflow.signal_name
        if job.HasField("do_update") and self._header not in job.do_update.headers:
            return "update", job.do_update.name
        return None


def count_untenanted(meter: MetricMeter, kind: str) -> None:
    """Count something that was let through without a tenant.

    Args:
        meter: Where to count.
        kind: What it was: workflow, signal, query, update or activity.
    """
    text = "What mode optional let through without a tenant"
    meter.create_counter("orkestra_untenanted", text).add(1, {"kind": kind})
