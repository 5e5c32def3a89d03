"""What arrives without a tenant while it is let through: counted, so that one can see it end.

A system that is moved over runs in mode `optional` until these counts stand still.
"""

import logging
from collections.abc import Iterator
from typing import Final

from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob
from temporalio.common import MetricMeter
from temporalio.worker import WorkflowInstanceDetails

from orkestra.temporal.interceptors.tenant.admission import meter_of

_logger: Final = logging.getLogger(__name__)


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
