"""Whether a run may begin here: asked once, on its first task, and never again under replay.

The first run of a chain that may not begin fails for good. A later one (continue-as-new, a retry)
belongs to work that was let in once, so it waits: its task fails and is tried again, until the
directory says otherwise. Each run of a cron schedule counts as a first one.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from temporalio.api.enums.v1 import ContinueAsNewInitiator
from temporalio.bridge.proto.workflow_activation import InitializeWorkflow, WorkflowActivation
from temporalio.common import MetricMeter
from temporalio.worker import WorkflowInstanceDetails

from orkestra.directory import Placement, TenantLabels
from orkestra.errors import (
    TENANT_MISMATCH,
    TENANT_SUSPENDED,
    TENANT_UNDECIDED,
    TENANT_UNKNOWN,
    DirectoryUnavailableError,
    TenantSuspendedError,
    UnknownTenantError,
)
from orkestra.temporal.interceptors.tenant.asking import Asking
from orkestra.temporal.interceptors.tenant.verdicts import RUN, Verdict

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
    make = functions.get("__temporal_get_metric_meter")
    made = None if make is None else make()
    return made if isinstance(made, MetricMeter) else MetricMeter.noop
