"""Admission of work: the directory is asked when work arrives, and never on replay.

The directory's answer is not in a workflow's history. So a run is asked about once, on its first
task, and a refusal that fails the workflow leaves a marker in history, the one that
`workflow.patched()` makes: a replay finds it and refuses again without asking anyone.

Only the first run of a chain fails for good. A later one (continue-as-new, a retry) belongs to
work that was admitted before, so its task fails and is tried again until the directory allows it.
Each run of a cron schedule counts as a first one (B17).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, TypeVarTuple

from temporalio.api.enums.v1 import ContinueAsNewInitiator
from temporalio.api.failure.v1 import Failure
from temporalio.common import MetricMeter
from temporalio.worker import WorkflowInstanceDetails

from orkestra.directory import Placement, Placements
from orkestra.errors import (
    TENANT_MISMATCH,
    TENANT_SUSPENDED,
    TENANT_UNDECIDED,
    TENANT_UNKNOWN,
    DirectoryUnavailableError,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
)
from orkestra.temporal._sdk import (
    METRIC_METER_FUNCTION,
    InitializeWorkflow,
    WorkflowActivation,
    WorkflowActivationCompletion,
)
from orkestra.temporal.tenant.stamp import TenantCodec

_logger: Final = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_Args = TypeVarTuple("_Args")

REFUSED_RUN: Final = "orkestra-refused-run:"
REFUSED_COMMAND: Final = "orkestra-refused-command:"
"""Markers in history, before the kind of the refusal."""

_KINDS: Final[Mapping[type[Exception], str]] = {
    DirectoryUnavailableError: TENANT_UNDECIDED,
    UnknownTenantError: TENANT_UNKNOWN,
    TenantSuspendedError: TENANT_SUSPENDED,
    TenantMismatchError: TENANT_MISMATCH,
}
_ERRORS: Final = tuple(_KINDS)


@dataclass(frozen=True)
class Refusal:
    """Reason why work does not run here, and how it fails."""

    kind: str  # `ApplicationError.type` of the failure
    problem: str
    marker: str = ""  # goes before the kind into history; empty where history alone decided

    @property
    def is_final(self) -> bool:
        """True if the work fails, and not just this attempt or workflow task."""
        return self.kind != TENANT_UNDECIDED

    def completion(self) -> WorkflowActivationCompletion:
        """Answer an activation that is stopped before any workflow code runs."""
        completion = WorkflowActivationCompletion()
        completion.successful.SetInParent()
        self.write(completion)
        return completion

    def write(self, completion: WorkflowActivationCompletion) -> None:
        """Put the failure in place of everything that an activation led to."""
        if not self.is_final:
            completion.failed.SetInParent()
            self._fill(completion.failed.failure)
            return
        commands = completion.successful.commands
        # No command of a refused run may take effect, so the failure replaces all of them.
        del commands[:]
        # Of all markers, the SDK tells only those of patches before a replay runs any code.
        if self.marker:
            commands.add().set_patch_marker.patch_id = f"{self.marker}{self.kind}"
        self._fill(commands.add().fail_workflow_execution.failure)

    def query_answers(self, activation: WorkflowActivation) -> WorkflowActivationCompletion:
        """Fail the queries of a run that was refused and so has no code to answer them."""
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


def _kind_of(error: Exception) -> str:
    return next(kind for type_, kind in _KINDS.items() if isinstance(error, type_))


def recorded_refusal(activation: WorkflowActivation) -> Refusal | None:
    """The refusal that a task's first activation repeats from history, or None."""
    for job in activation.jobs:
        if job.HasField("notify_has_patch"):
            marker, separator, kind = job.notify_has_patch.patch_id.partition(":")
            if marker + separator in (REFUSED_RUN, REFUSED_COMMAND):
                return Refusal(kind, "workflow refused when it ran", marker + separator)
    return None


@dataclass(frozen=True)
class PlacementCheck:
    """Check that a tenant's work belongs on this worker; `tenants` None means all."""

    placements: Placements
    tenants: Collection[str] | None = None

    def unserved(self, tenant: str | None, task_queue: str) -> Refusal | None:
        """Refuse this attempt at the work of a tenant that the worker does not serve (B16)."""
        if self.tenants is None or tenant in self.tenants:
            return None
        problem = (
            f"misconfiguration: task queue {task_queue!r} delivered work of tenant {tenant!r}, whom"
            " this worker does not serve: start a worker for this tenant there, or change the"
            " directory back"
        )
        return Refusal(TENANT_UNDECIDED, problem)

    async def refusal(
        self, tenant: str | None, *, namespace: str, task_queue: str, is_start: bool
    ) -> Refusal | None:
        """Refuse an activity or Nexus operation that the directory does not allow here (B5).

        A workflow's activity belongs to work that has started already; a standalone one starts.
        """
        if tenant is None or self.placements.is_open:
            return None
        try:
            placement = await self.placements.of(tenant)
            if is_start:
                placement.require_active()
            placement.require_place(namespace, task_queue, is_start=is_start)
        except _ERRORS as error:
            return Refusal(_kind_of(error), str(error))
        return None


# Longer than the directory's own deadline of a second: its last known answer still comes in time.
_MAX_WAIT_SECONDS: Final = 1.4
_ACTIVATION_SECONDS: Final = 1.6


class LoopBridge:
    """Asks the directory and the server from the workflow's thread; made on the event loop.

    The SDK calls a workflow deadlocked two seconds after an activation began (T57). An answer that
    does not come in time fails the workflow task. The server tries that again, and the answer is
    there by then.
    """

    def __init__(self, placements: Placements) -> None:
        self._placements = placements
        self._started = 0.0
        self._placement: Placement | None = None
        self._thread = threading.get_ident()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # the worker only validates the workflow, and asks nothing
            self._loop = None

    def begin_activation(self) -> None:
        """Start the clock that all questions of an activation share."""
        self._started = time.monotonic()
        self._placement = None

    def placement(self, tenant: str) -> Placement:
        """The placement of the run's tenant, the same for all of an activation."""
        if self._placement is None:
            self._placement = self._placements.remembered(tenant) or self._ask(tenant)
        return self._placement

    def _ask(self, tenant: str) -> Placement:
        try:
            return self.wait_for(self._placements.of, tenant)
        except _SameThreadError:
            # The look-up goes on, so the next try finds its answer; until then an old one serves.
            last = self._placements.last(tenant)
            if last is None:
                raise
            return last

    def wait_for(
        self, ask: Callable[[*_Args], Coroutine[Any, Any, _Answer]], *args: *_Args
    ) -> _Answer:
        """Run a coroutine function on the event loop and wait for what it returns."""
        left = self._started + _ACTIVATION_SECONDS - time.monotonic()
        timeout = min(_MAX_WAIT_SECONDS, left)
        if self._loop is None or timeout <= 0:
            msg = "this workflow task has no time left to look up the tenant"
            raise DirectoryUnavailableError(msg)
        # Sent before the check below, so that the next try finds the answer.
        future = asyncio.run_coroutine_threadsafe(ask(*args), self._loop)
        if threading.get_ident() == self._thread:  # waiting would block for ever
            msg = (
                "the tenant cannot be looked up in the SDK's debug mode, which runs workflows on"
                " the event loop: the answer is there when the task is tried again"
            )
            raise _SameThreadError(msg)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            msg = f"the tenant could not be looked up within {timeout:.1f} s"
            raise DirectoryUnavailableError(msg) from None


class _SameThreadError(DirectoryUnavailableError):
    """The workflow runs on the event loop's own thread, as in the SDK's debug mode."""


_FIRST_RUNS: Final = frozenset(
    {
        ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_UNSPECIFIED,
        ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE,
    }
)


@dataclass(eq=False)
class Admission:
    """Decides whether a run may be worked on here."""

    codec: TenantCodec
    details: WorkflowInstanceDetails
    tenant: str | None
    check: PlacementCheck
    bridge: LoopBridge

    def refusal(self, activation: WorkflowActivation) -> Refusal | None:
        """Refuse the run of a tenant that is not served here, or whose first task may not run."""
        refusal = self.check.unserved(self.tenant, self.details.info.task_queue)
        if refusal is not None:
            self._log(logging.ERROR, refusal)
            count_misplaced(meter_of(self.details), self.codec.labels.of(self.tenant))
            return refusal
        first = _first_task(activation)
        if first is None or self.tenant is None:
            return None
        refusal = self._ask(self.tenant, is_start=first.continued_initiator in _FIRST_RUNS)
        if refusal is not None:
            self._log(logging.WARNING, refusal)
            meter_of(self.details).create_counter(
                "orkestra_refused_workflows", "Workflows that were refused on their first task"
            ).add(1, {"kind": refusal.kind} | self.codec.labels.of(self.tenant))
        return refusal

    def _ask(self, tenant: str, *, is_start: bool) -> Refusal | None:
        info = self.details.info
        try:
            placement = self.bridge.placement(tenant)
            placement.require_place(info.namespace, info.task_queue, is_start=is_start)
            placement.require_active()
        except _ERRORS as error:
            kind = _kind_of(error)
            if kind == TENANT_UNDECIDED:
                return Refusal(kind, f"workflow waits: {error}")
            if is_start:
                return Refusal(kind, f"workflow refused: {error}", REFUSED_RUN)
            return Refusal(TENANT_UNDECIDED, f"a later run of this workflow waits: {error}")
        return None

    def _log(self, level: int, refusal: Refusal) -> None:
        info = self.details.info
        _logger.log(level, "%s (ID %r, run %s)", refusal.problem, info.workflow_id, info.run_id)


def _first_task(activation: WorkflowActivation) -> InitializeWorkflow | None:
    # The directory's answer of today may not be that of then, which a replay must repeat.
    if activation.is_replaying:
        return None
    jobs = (
        job.initialize_workflow for job in activation.jobs if job.HasField("initialize_workflow")
    )
    return next(jobs, None)


_MESSAGES: Final = {
    "signal_workflow": ("signal", "signal_name"),
    "query_workflow": ("query", "query_type"),
    "do_update": ("update", "name"),
}


def count_untenanted_jobs(
    activation: WorkflowActivation,
    details: WorkflowInstanceDetails,
    *,
    header: str,
    tenant: str | None,
) -> None:
    """Count the start and the messages of a run that have no tenant, in mode `optional`.

    A system that adopts Orkestra stays in that mode until these counts no longer grow.
    """
    for job in activation.jobs:
        variant = job.WhichOneof("variant") or ""
        # Queries are never replayed, even if their activation says so.
        if activation.is_replaying and variant != "query_workflow":
            continue
        found: tuple[str, str] | None = None
        if variant == "initialize_workflow" and tenant is None:
            found = "workflow", job.initialize_workflow.workflow_type
        elif variant in _MESSAGES and header not in (message := getattr(job, variant)).headers:
            kind, name = _MESSAGES[variant]
            found = kind, getattr(message, name)
        if found is not None:
            _logger.info("%s %r without a tenant (ID %r)", *found, details.info.workflow_id)
            count_untenanted(meter_of(details), found[0])


def count_untenanted(meter: MetricMeter, kind: str) -> None:
    """Count a workflow, signal, query, update or activity that mode `optional` accepted."""
    text = "Work without a tenant that mode optional accepted"
    meter.create_counter("orkestra_untenanted", text).add(1, {"kind": kind})


def count_misplaced(meter: MetricMeter, labels: Mapping[str, str]) -> None:
    """Count a task of a tenant that the worker does not serve."""
    text = "Tasks of tenants that the worker does not serve"
    meter.create_counter("orkestra_misplaced_tasks", text).add(1, labels)


def meter_of(details: WorkflowInstanceDetails) -> MetricMeter:
    """The meter that `workflow.metric_meter()` gives to workflow code."""
    functions: Mapping[str, Callable[..., object]]
    functions = details.extern_functions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - the SDK leaves them untyped
    make = functions.get(METRIC_METER_FUNCTION)
    made = None if make is None else make()
    return made if isinstance(made, MetricMeter) else MetricMeter.noop
