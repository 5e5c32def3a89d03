"""The activity's side: a live span around each attempt, so that what it observes nests below."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from orkestra.temporal.interceptors.tracing.attributes import complete
from orkestra.temporal.interceptors.tracing.header import read_header
from orkestra.temporal.interceptors.tracing.outcomes import outcome_of_attempt
from orkestra.tenancy import current_tenant
from orkestra.tracing import (
    CaptureLimits,
    MetadataValue,
    Outcome,
    Span,
    SpanKind,
    TraceSink,
    activity_span_id,
    capture,
    nanoseconds,
    trace_id_of,
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
        span = self._span_or_none(input, sink.limits)
        live = None if span is None else await sink.enter(span)
        if live is None:
            return await super().execute_activity(input)
        try:
            result = await super().execute_activity(input)
        except BaseException as error:
            live.end(outcome_of_attempt(error))
            raise
        limits = sink.limits
        output = capture(result, max_bytes=limits.max_bytes) if limits.output else None
        live.end(Outcome(output=output, metadata={"status": "completed"}))
        return result

    def _span_or_none(self, input: ExecuteActivityInput, limits: CaptureLimits) -> Span | None:
        try:
            return self._span(input, limits)
        except Exception:
            _logger.exception("An activity runs untraced")
            return None

    def _span(self, input: ExecuteActivityInput, limits: CaptureLimits) -> Span:
        info = activity.info()
        carried = read_header(input.headers)
        tenant = current_tenant()
        owner_id = info.workflow_id or info.activity_id
        run_id = info.workflow_run_id or info.activity_run_id or ""
        return Span(
            trace_id=carried.trace_id or trace_id_of(info.namespace, owner_id, run_id),
            span_id=activity_span_id(
                run_id, info.activity_id, info.attempt, info.current_attempt_scheduled_time
            ),
            parent_id=carried.span_id,
            kind=SpanKind.ACTIVITY,
            name=f"activity:{info.activity_type}",
            start_ns=nanoseconds(info.started_time),
            run_id=run_id,
            tenant=tenant,
            attributes=complete(carried.attributes, tenant=tenant, workflow_id=owner_id),
            metadata=_metadata(info, run_id, self._identity),
            input=capture(list(input.args), max_bytes=limits.max_bytes) if limits.input else None,
        )


def _metadata(info: activity.Info, run_id: str, identity: str) -> dict[str, MetadataValue]:
    latency = (info.started_time - info.current_attempt_scheduled_time) / _MILLISECOND
    metadata: dict[str, MetadataValue] = {
        "activity_id": info.activity_id,
        "attempt": info.attempt,
        "run_id": run_id,
        "namespace": info.namespace,
        "task_queue": info.task_queue,
        "worker": identity,
        "schedule_to_start_ms": round(latency, 3),
        "is_local": info.is_local,
    }
    if info.workflow_id is not None:
        metadata["workflow_id"] = info.workflow_id
    if info.workflow_type is not None:
        metadata["workflow_type"] = info.workflow_type
    return metadata
