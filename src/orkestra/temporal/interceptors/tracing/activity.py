"""The activity's side: a live span around each attempt, so that what it observes nests below."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import is_cancelled_exception
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from orkestra.temporal.interceptors.tracing.attributes import complete
from orkestra.temporal.interceptors.tracing.fate import Fate
from orkestra.temporal.interceptors.tracing.header import read_header
from orkestra.temporal.interceptors.tracing.outcomes import outcome_of_attempt
from orkestra.tenancy import current_tenant
from orkestra.tracing import (
    AttemptFacts,
    CaptureLimits,
    LiveSpan,
    MetadataValue,
    Outcome,
    Span,
    TraceSink,
    activity_span,
    capture,
    nanoseconds,
)

_logger: Final = logging.getLogger(__name__)
_MILLISECOND: Final = timedelta(milliseconds=1)


class TracingActivityInbound(ActivityInboundInterceptor):
    """Runs each attempt of an activity inside its span."""

    def __init__(
        self,
        next: ActivityInboundInterceptor,
        sink_for: Callable[[str | None], TraceSink],
        identity: str,
    ) -> None:
        """Send to the tenant's sink, as the worker of this identity."""
        super().__init__(next)
        self._sink_for = sink_for
        self._identity = identity

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """See base class."""
        sink = self._sink_for(current_tenant())
        live = await self._entered(input, sink)
        if live is None:
            return await super().execute_activity(input)
        if not isinstance(input.executor, ThreadPoolExecutor | None):
            input.executor = live.through(input.executor)
        previous = Fate(self)
        try:
            result = await super().execute_activity(input)
        except BaseException as error:
            live.end(_with(_outcome(error), await previous.known()))
            raise
        limits = sink.limits
        output = capture(result, max_bytes=limits.max_bytes) if limits.output else None
        outcome = Outcome(output=output, metadata={"status": "completed"})
        live.end(_with(outcome, await previous.known()))
        return result

    async def _entered(self, input: ExecuteActivityInput, sink: TraceSink) -> LiveSpan | None:
        try:
            return await sink.enter(self._span(input, sink.limits))
        except Exception:
            _logger.exception("An activity runs untraced")
            return None

    def _span(self, input: ExecuteActivityInput, limits: CaptureLimits) -> Span:
        info = activity.info()
        carried = read_header(input.headers)
        tenant = current_tenant()
        owner_id = info.workflow_id or info.activity_id
        run_id = info.workflow_run_id or info.activity_run_id or ""
        facts = AttemptFacts(
            namespace=info.namespace,
            workflow_id=info.workflow_id,
            workflow_type=info.workflow_type,
            run_id=run_id,
            activity_id=info.activity_id,
            activity_type=info.activity_type,
            task_queue=info.task_queue,
            attempt=info.attempt,
            start_ns=(info.is_local and carried.start_ns) or nanoseconds(info.started_time),
            is_local=info.is_local,
            tenant=tenant,
            carried=carried,
            attributes=complete(carried.attributes, tenant=tenant, workflow_id=owner_id),
        )
        taken = capture(list(input.args), max_bytes=limits.max_bytes) if limits.input else None
        latency = (info.started_time - info.current_attempt_scheduled_time) / _MILLISECOND
        of_worker: dict[str, MetadataValue] = {
            "worker": self._identity,
            "schedule_to_start_ms": round(latency, 3),
        }
        return activity_span(facts, input=taken, of_worker=of_worker)


def _outcome(error: BaseException) -> Outcome:
    """How the attempt ended, with the reasons where it was cancelled."""
    outcome = outcome_of_attempt(error)
    details = activity.cancellation_details()
    if details is None or not is_cancelled_exception(error):
        return outcome
    reasons = [name for name, holds in vars(details).items() if holds]
    return _with(outcome, {"cancelled_by": ", ".join(reasons)})


def _with(outcome: Outcome, metadata: Mapping[str, str]) -> Outcome:
    return replace(outcome, metadata={**outcome.metadata, **metadata}) if metadata else outcome
