"""A worker and clients that trace to a receiver of their own, for tests of tracing."""

from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from orkestra import OrkestraConfig, OrkestraPlugin
from orkestra.testing import LangfuseReceiver, ReceivedSpan, TraceTree
from orkestra.tracing import FinishedSpan, Outcome, Span, SpanKind, TraceAttributes
from tests.support.names import Fresh
from tests.support.waiting import PATIENTLY
from tests.workflows import observed, traced

SOON = timedelta(seconds=0.2)
"""How often heartbeats reach the server, which answers that an activity is to be cancelled."""


class Traced:
    """One traced process: a plugin, clients bound to tenants, and a worker."""

    def __init__(
        self, raw: Client, fresh: Fresh, receiver: LangfuseReceiver, **settings: Any
    ) -> None:
        self.raw = raw
        self.fresh = fresh
        self.receiver = receiver
        self.acme = fresh.tenant("acme")
        self.beta = fresh.tenant("beta")
        self.queue = fresh.task_queue()
        self.plugin = OrkestraPlugin(OrkestraConfig(langfuse=receiver.settings(**settings)))
        self.sink: Any = self.plugin._state.sink

    def client(self, tenant: str | None = None) -> Client:
        return Client(
            self.raw.service_client,
            plugins=[self.plugin.for_tenant(tenant) if tenant else self.plugin],
        )

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncGenerator[Worker]:
        with ThreadPoolExecutor(4) as threads:
            async with Worker(
                self.client(),
                task_queue=self.queue,
                workflows=[*traced.WORKFLOWS, *observed.WORKFLOWS],
                activities=[*traced.ACTIVITIES, *observed.ACTIVITIES],
                activity_executor=threads,
                max_heartbeat_throttle_interval=SOON,
                **options,
            ) as worker:
                yield worker

    async def start(self, run: Any, *args: Any, tenant: str | None = None, **options: Any) -> Any:
        tenant = tenant or self.acme
        workflow_id = options.pop("id", self.fresh.workflow_id())
        return await self.client(tenant).start_workflow(
            run, args=args, id=workflow_id, task_queue=self.queue, **options
        )

    async def result(self, run: Any, *args: Any, **options: Any) -> Any:
        handle = await self.start(run, *args, **options)
        return await handle.result()

    async def spans(self) -> list[ReceivedSpan]:
        """Everything that was sent, each once."""
        assert await self.plugin.flush(PATIENTLY)
        spans = self.receiver.spans
        ids = [(span.trace_id, span.span_id) for span in spans]
        assert len(ids) == len(set(ids)), [span.name for span in spans]
        return spans

    async def trace(self) -> TraceTree:
        """The one trace that was sent, which has one root."""
        await self.spans()
        [roots] = self.receiver.traces().values()
        [root] = roots
        return root

    async def close(self) -> None:
        assert await self.sink.close(PATIENTLY)


async def has_begun(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether an activity of the workflow runs, as its heartbeat shows."""
    pending = (await handle.describe()).raw_description.pending_activities
    return any(each.HasField("last_heartbeat_time") for each in pending)


def record_of(
    *, tenant: str | None = None, name: str = "workflow:X", number: int = 1, **others: Any
) -> FinishedSpan:
    """A span that has ended."""
    span = Span(
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
        parent_id=None,
        kind=SpanKind.WORKFLOW,
        name=name,
        start_ns=1,
        run_id="run",
        tenant=tenant,
        attributes=TraceAttributes(),
        metadata={},
        **others,
    )
    return FinishedSpan(span=span, outcome=Outcome(), end_ns=2)
