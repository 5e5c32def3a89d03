"""The tracing interceptor, for clients and workers alike."""

import logging
import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

from temporalio import client, worker

from orkestra.temporal.interceptors.tracing.activity import TracingActivityInbound
from orkestra.temporal.interceptors.tracing.client import (
    TracingClientInterceptor,
    TracingClientOutbound,
)
from orkestra.temporal.interceptors.tracing.nexus import TracingNexusInbound
from orkestra.temporal.interceptors.tracing.outbox import Outbox, RunOutbox
from orkestra.temporal.interceptors.tracing.run import EMIT, EMIT_QUERY, NOW, RunOptions
from orkestra.temporal.interceptors.tracing.workflow import TracingWorkflowInbound
from orkestra.tracing import SpanRecord, TraceSink

_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingOptions:
    """Which spans are made of workflows.

    Attributes:
        ui_url: Where Temporal's web interface is; workflows' spans link to their pages there.
        queries: Whether queries have spans.
        timer_threshold: Timers that took as long have spans; None means that none have.
    """

    ui_url: str | None = None
    queries: bool = False
    timer_threshold: timedelta | None = timedelta(seconds=10)


class TracingInterceptor(client.Interceptor, worker.Interceptor):
    """Makes one trace of each workflow execution.

    Give it to the client; workers take it from there. Tenants are read from `current_tenant()`, so
    on a worker it comes after the interceptor that sets them.

    Example:
        ```python
        sink = LangfuseSink(settings)
        client = await Client.connect("localhost:7233", interceptors=[TracingInterceptor(sink)])
        ```
    """

    def __init__(
        self,
        sink: TraceSink,
        *,
        tenant: str | None = None,
        identity: str | None = None,
        options: TracingOptions | None = None,
    ) -> None:
        """Send all spans to the sink.

        Args:
            sink: Where spans go; whoever made it closes it.
            tenant: The tenant that the client is bound to; None means `current_tenant()`.
            identity: Name of this worker on the server; None means `pid@host`, the SDK's default.
            options: Which spans are made of workflows; None means the defaults.
        """
        self._sink = sink
        self._tenant = tenant
        self._identity = identity or f"{os.getpid()}@{socket.gethostname()}"
        self._options = options or TracingOptions()
        self._outbox = Outbox(
            self._send, limits=sink.limits, timer_threshold=self._options.timer_threshold
        )
        self._is_silent = False
        run = RunOptions(
            limits=sink.limits, ui_url=self._options.ui_url, queries=self._options.queries
        )
        self._workflow_class = type(
            "TracingWorkflowInbound", (TracingWorkflowInbound,), {"options": run}
        )

    def for_tenant(self, tenant: str) -> TracingClientInterceptor:
        """The same for a client that is bound to the tenant, and can make no worker."""
        return TracingClientInterceptor(self._sink_for, tenant)

    def for_replayer(self) -> "TracingInterceptor":
        """The same interceptor for a replayer, which sends nothing.

        The end of the history of a workflow that still runs is no replay to the SDK.
        """
        silent = TracingInterceptor(self._sink, identity=self._identity, options=self._options)
        silent._is_silent = True
        return silent

    def _sink_for(self, tenant: str | None) -> TraceSink:
        """Where a tenant's spans go: everything that is sent asks here."""
        return self._sink

    def run_hook(self, details: worker.WorkflowInstanceDetails) -> RunOutbox:
        """What holds a run's spans until the server has taken its tasks, for the runner."""
        return self._outbox.hook(details)

    @property
    def held(self) -> int:
        """How many spans wait for the server to take what made them."""
        return self._outbox.held

    def settle(self, task_queue: str) -> None:
        """Send what the runs of a worker hold which has ended."""
        self._outbox.settle(task_queue)

    def emit(self, record: SpanRecord) -> None:
        """Take a span from workflow code; the only way out of the sandbox. Never raises."""
        if not self._is_silent:
            self._outbox.take(record)

    def _send(self, record: SpanRecord) -> None:
        try:
            self._sink_for(record.span.tenant).emit(record)
        except Exception:
            _logger.exception("A span was lost")

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        """See base class."""
        return TracingClientOutbound(next, self._sink_for, self._tenant)

    def intercept_activity(
        self, next: worker.ActivityInboundInterceptor
    ) -> worker.ActivityInboundInterceptor:
        """See base class."""
        return TracingActivityInbound(next, self._sink_for, self._identity)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """See base class."""
        functions = cast("Any", input).unsafe_extern_functions
        functions[EMIT], functions[NOW] = self.emit, time.time_ns
        functions[EMIT_QUERY] = _nothing if self._is_silent else self._send
        return self._workflow_class

    def intercept_nexus_operation(
        self, next: worker.NexusOperationInboundInterceptor
    ) -> worker.NexusOperationInboundInterceptor:
        """See base class."""
        return TracingNexusInbound(next)


def _nothing(record: SpanRecord) -> None:
    """A replayer's span."""
