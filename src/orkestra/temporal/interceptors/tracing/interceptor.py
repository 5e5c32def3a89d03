"""The tracing interceptor, for clients and workers alike."""

import logging
import os
import socket
from typing import Any, Final, cast

from temporalio import client, worker

from orkestra.temporal.interceptors.tracing.activity import TracingActivityInbound
from orkestra.temporal.interceptors.tracing.client import TracingClientOutbound
from orkestra.temporal.interceptors.tracing.run import EMIT, RunOptions
from orkestra.temporal.interceptors.tracing.workflow import TracingWorkflowInbound
from orkestra.tracing import SpanRecord, TraceSink

_logger: Final = logging.getLogger(__name__)


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
        self, sink: TraceSink, *, tenant: str | None = None, identity: str | None = None
    ) -> None:
        """Send all spans to the sink.

        Args:
            sink: Where spans go; whoever made it closes it.
            tenant: The tenant that the client is bound to; None means `current_tenant()`.
            identity: Name of this worker on the server; None means `pid@host`, the SDK's default.
        """
        self._sink = sink
        self._tenant = tenant
        self._identity = identity or f"{os.getpid()}@{socket.gethostname()}"
        options = RunOptions(limits=sink.limits)
        self._workflow_class = type(
            "TracingWorkflowInbound", (TracingWorkflowInbound,), {"options": options}
        )

    def for_tenant(self, tenant: str | None) -> "TracingInterceptor":
        """The same interceptor for a client that is bound to the tenant."""
        return TracingInterceptor(self._sink, tenant=tenant, identity=self._identity)

    def sink_for(self, tenant: str | None) -> TraceSink:
        """Where a tenant's spans go: everything that is sent asks here."""
        return self._sink

    def emit(self, record: SpanRecord) -> None:
        """Take a span from workflow code; the only way out of the sandbox. Never raises."""
        try:
            self.sink_for(record.span.tenant).emit(record)
        except Exception:
            _logger.exception("A span was lost")

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        """See base class."""
        return TracingClientOutbound(next, self.sink_for, self._tenant)

    def intercept_activity(
        self, next: worker.ActivityInboundInterceptor
    ) -> worker.ActivityInboundInterceptor:
        """See base class."""
        return TracingActivityInbound(next, self.sink_for, self._identity)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """See base class."""
        cast("Any", input).unsafe_extern_functions[EMIT] = self.emit
        return self._workflow_class
