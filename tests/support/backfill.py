"""Two stand-ins for Langfuse: one for what workers send, one for what is rebuilt from histories."""

from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from temporalio.worker import Worker

from orkestra.temporal.backfill import BackfillReport, backfill_trace
from orkestra.testing import ReceivedSpan, traces_of
from tests.support.traced_worker import SOON, Traced
from tests.workflows import rebuilt, traced


@asynccontextmanager
async def worker(live: Traced, **options: Any) -> AsyncGenerator[Worker]:
    """A worker that traces; what it has sent is complete when it has ended."""
    with ThreadPoolExecutor(4) as threads:
        async with Worker(
            live.client(),
            task_queue=live.queue,
            workflows=[*traced.WORKFLOWS, *rebuilt.WORKFLOWS],
            activities=[*traced.ACTIVITIES, *rebuilt.ACTIVITIES],
            activity_executor=threads,
            max_heartbeat_throttle_interval=SOON,
            **options,
        ) as made:
            yield made


async def backfill(by: Traced, workflow_id: str, **options: Any) -> BackfillReport:
    """Backfill as the tenant `acme`, with everything that belongs to the workflow."""
    return await backfill_trace(
        by.client(by.acme), workflow_id, **{"whole_chain": True, "force": True, **options}
    )


def key(span: ReceivedSpan) -> tuple[Any, ...]:
    return span.trace_id, span.span_id, span.parent_id, span.name, span.start_ns


def names(spans: list[ReceivedSpan]) -> Counter[str]:
    return Counter(span.name for span in spans)


async def differences(live: Traced, again: Traced) -> tuple[list[ReceivedSpan], list[ReceivedSpan]]:
    """What only the workers sent, and what was only rebuilt; together they are one trace."""
    sent, made = await live.spans(), await again.spans()
    assert sent
    assert made
    whole = {(span.trace_id, span.span_id): span for span in (*sent, *made)}
    [[root]] = traces_of(whole.values()).values()
    assert root.span.parent_id is None
    sent_keys, made_keys = {key(span) for span in sent}, {key(span) for span in made}
    return (
        [span for span in sent if key(span) not in made_keys],
        [span for span in made if key(span) not in sent_keys],
    )


def is_earlier_attempt(span: ReceivedSpan, among: list[ReceivedSpan]) -> bool:
    """Whether the span is an attempt of an activity before the last, which no history has."""
    return any(
        each.metadata.get("activity_id") == span.metadata.get("activity_id")
        and each.metadata["run_id"] == span.metadata["run_id"]
        and each.metadata["attempt"] > span.metadata["attempt"]
        for each in among
        if "activity_id" in each.metadata
    )
