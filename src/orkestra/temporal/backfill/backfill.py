"""Backfill: fetch histories, rebuild their spans, and send those that Langfuse lacks.

The hard part is not to send a span twice, because Langfuse never merges two. Langfuse is asked
which spans of a trace it has; but it can tell only some two seconds after it accepted them, so one
`Uploader` also remembers what it has sent itself.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import (
    ExecutionNotFoundError,
    InvalidQueryError,
    LangfuseUnavailableError,
    TenantMismatchError,
    UnknownTenantError,
)
from orkestra.temporal.backfill.history import Execution, RunHistory, fetch_runs
from orkestra.temporal.backfill.rebuild import (
    PartialSpan,
    RunHistoryContext,
    TenantResolver,
    spans_from_history,
)
from orkestra.temporal.plugin import plugin_of
from orkestra.tracing import CaptureLimits, FinishedSpan, Span

if TYPE_CHECKING:
    # Tracing is optional: `import orkestra` must not import its Langfuse side.
    from orkestra.langfuse import LangfuseSink

_RECENT: Final = timedelta(minutes=1)
_CONCURRENCY: Final = 4
_LANGFUSE_TIMEOUT: Final = timedelta(seconds=30)
_BATCH_SPANS: Final = 500

ExistingIds = dict[tuple[str | None, str], frozenset[str]]
"""Span IDs that Langfuse has, by tenant and trace ID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillReport:
    """Result for the trace of one execution.

    Attributes:
        workflow_id: Workflow ID on the server.
        run_id: Run ID; the first one if several runs were read.
        missing: Spans that were sent, or with `dry_run` would be.
        present: Number of spans that Langfuse had already.
        recent: Number of spans left out because they ended a moment ago: a worker may be about to
            send them.
        unended: Number of spans left out because they have no end: they are running, or the run
            ended without waiting for them.
        unsampled: Number of spans left out because their trace is not sampled.
        dry_run: Nothing was sent.
    """

    workflow_id: str
    run_id: str
    missing: tuple[Span, ...] = ()
    present: int = 0
    recent: int = 0
    unended: int = 0
    unsampled: int = 0
    dry_run: bool = False

    @property
    def sent(self) -> int:
        """Number of spans that were sent."""
        return 0 if self.dry_run else len(self.missing)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON, without arguments and results."""
        return {
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            "dry_run": self.dry_run,
            "sent": self.sent,
            "present": self.present,
            "recent": self.recent,
            "unended": self.unended,
            "unsampled": self.unsampled,
            "missing": [
                {
                    "name": span.name,
                    "trace_id": span.trace_id,
                    "span_id": span.span_id,
                    "parent_id": span.parent_id,
                    "start_ns": span.start_ns,
                }
                for span in self.missing
            ],
        }


async def backfill_trace(
    client: Client,
    workflow_id: str,
    *,
    run_id: str | None = None,
    children: bool = True,
    whole_chain: bool = False,
    dry_run: bool = False,
    force: bool = False,
    older_than: timedelta = _RECENT,
) -> BackfillReport:
    """Send the spans of a workflow's trace that Langfuse lacks, rebuilt from its history.

    The spans are those that a worker would have sent: the same ids, parents, names and start times.
    Langfuse reports a span only some two seconds after accepting it: wait that long before you
    backfill the same workflow again.

    Args:
        client: A client with an `OrkestraPlugin`, bound to the workflow's tenant or made with
            `ALL_TENANTS`. Its data converter reads arguments and results.
        workflow_id: The workflow, running or closed.
        run_id: One run of it; None means the latest.
        children: Also backfill the workflows that it started, and theirs.
        whole_chain: Also backfill the runs before and after, by continue-as-new, retry or cron.
        dry_run: Only ask and report.
        force: Send every span that has ended without asking Langfuse. Existing observations are
            duplicated, and cannot be merged later.
        older_than: Leave out spans that ended less than this ago; a worker may be about to send
            them.

    Returns:
        What was sent and what was left out.

    Raises:
        ExecutionNotFoundError: The server does not know the workflow or the run.
        LangfuseUnavailableError: Langfuse did not answer, and nothing was sent; or it did not
            accept all that was sent.
        TenantMismatchError: The client is bound to another tenant than the workflow's.
        UnknownTenantError: The directory does not know the workflow's tenant.
        ConfigurationError: Tracing is off, or the client has no `OrkestraPlugin`.

    Example:
        ```python
        report = await backfill_trace(client, "order-42", dry_run=True)
        print([span.name for span in report.missing])
        ```
    """
    options = BackfillOptions(dry_run=dry_run, force=force, older_than=older_than)
    walker = _Walker(client, options, children=children, whole_chain=whole_chain)
    return await walker.backfill(Execution(workflow_id, run_id))


async def backfill_traces(
    client: Client,
    query: str,
    *,
    children: bool = False,
    dry_run: bool = False,
    force: bool = False,
    older_than: timedelta = _RECENT,
    concurrency: int = _CONCURRENCY,
) -> AsyncGenerator[BackfillReport]:
    """Send the spans that Langfuse lacks for many workflows.

    Args:
        client: As for `backfill_trace()`. A bound client finds only its tenant's workflows.
        query: A list filter as for `Client.list_workflows`; each run that it finds is backfilled.
        children: Also backfill children that the query itself does not find.
        dry_run: Only ask and report.
        force: Send everything without asking Langfuse.
        older_than: Leave out spans that ended less than this ago.
        concurrency: Number of runs that are backfilled at once.

    Yields:
        A report for each run when it is done. There is none for a run that the server has deleted
        meanwhile, whose tenant is unknown, or that turns out to be another tenant's.

    Raises:
        InvalidQueryError: The query does not parse.
        LangfuseUnavailableError: As in `backfill_trace()`; the remaining runs are not backfilled.
        ConfigurationError: As in `backfill_trace()`.
    """
    options = BackfillOptions(dry_run=dry_run, force=force, older_than=older_than)
    walker = _Walker(client, options, children=children, whole_chain=False)
    found = _list_runs(client, query)
    tasks: set[asyncio.Task[BackfillReport | None]] = set()
    try:
        while True:
            while len(tasks) < concurrency and (execution := await anext(found, None)):
                tasks.add(asyncio.create_task(walker.backfill_listed(execution)))
            if not tasks:
                return
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # Raises what the task raised; the other tasks are then cancelled below.
                report = await task
                tasks.discard(task)
                if report is not None:
                    yield report
    finally:
        # Also if the caller stops iterating and closes the generator.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def count_traces(client: Client, query: str) -> int:
    """Count the runs that `backfill_traces()` would backfill now, with the same arguments."""
    with _invalid_query(query):
        return (await client.count_workflows(query)).count


async def read_trace(
    client: Client,
    workflow_id: str,
    *,
    run_id: str | None = None,
    children: bool = True,
    whole_chain: bool = False,
    limits: CaptureLimits | None = None,
) -> list[PartialSpan]:
    """Rebuild a workflow's trace from its history alone, without Langfuse.

    Args:
        client: As for `backfill_trace()`.
        workflow_id: The workflow, running or closed.
        run_id: One run of it; None means the latest.
        children: Also read the workflows that it started, and theirs.
        whole_chain: Also read the runs before and after, by continue-as-new, retry or cron.
        limits: Limits of captured arguments and results; None captures neither.

    Returns:
        Spans that ended and spans that are running, run by run, each run's own span first.

    Raises:
        ExecutionNotFoundError: The server does not know the workflow or the run.
        ConfigurationError: The client has no `OrkestraPlugin`.
    """
    limits = limits or CaptureLimits(input=False, output=False)
    found: list[PartialSpan] = []
    async for run in fetch_runs(
        client, Execution(workflow_id, run_id), children=children, whole_chain=whole_chain
    ):
        found += await _rebuild(client, run, limits)
    return found


async def _list_runs(client: Client, query: str) -> AsyncIterator[Execution]:
    with _invalid_query(query):
        async for found in client.list_workflows(query):
            yield Execution(found.id, found.run_id)


@contextmanager
def _invalid_query(query: str) -> Generator[None]:
    try:
        yield
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        msg = f"query {query!r} is refused: {error.message}"
        raise InvalidQueryError(msg) from error


async def _rebuild(client: Client, run: RunHistory, limits: CaptureLimits) -> list[PartialSpan]:
    plugin = plugin_of(client)
    context = RunHistoryContext(
        run,
        TenantResolver(plugin.tenancy),
        client.data_converter,
        limits,
        plugin.tracing_options,
    )
    return await spans_from_history(context)


@dataclass(frozen=True, kw_only=True)
class BackfillOptions:
    """Options of `backfill_trace()` that decide which spans are sent."""

    dry_run: bool
    force: bool
    older_than: timedelta


class _Walker:
    """Backfills executions with their relatives, run by run."""

    def __init__(
        self, client: Client, options: BackfillOptions, *, children: bool, whole_chain: bool
    ) -> None:
        self._client = client
        self._plugin = plugin_of(client)
        self._uploader = Uploader(options)
        self._children = children
        self._whole_chain = whole_chain

    async def backfill_listed(self, execution: Execution) -> BackfillReport | None:
        """Backfill an execution from a list; None if it is gone or has no tenant known here."""
        try:
            return await self.backfill(execution)
        except (ExecutionNotFoundError, TenantMismatchError, UnknownTenantError):
            return None

    async def backfill(self, execution: Execution) -> BackfillReport:
        report: BackfillReport | None = None
        existing: ExistingIds = {}
        async for run in fetch_runs(
            self._client, execution, children=self._children, whole_chain=self._whole_chain
        ):
            report = report or BackfillReport(workflow_id=run.workflow_id, run_id=run.run_id)
            tenant = TenantResolver(self._plugin.tenancy).of_run(run)
            # Resolved for each run, because only its own history names its tenant.
            project = await self._plugin.project_of(tenant)
            # The tenant is not traced, as by its workers.
            if project is not None:
                spans = await _rebuild(self._client, run, project.limits)
                report = await self._uploader.upload(report, spans, project, existing)
        # There is at least the run that was asked for.
        return cast("BackfillReport", report)


class Uploader:
    """Sends each span at most once, however often it is given."""

    def __init__(self, options: BackfillOptions) -> None:
        self._options = options
        self._sent: set[tuple[str, str]] = set()

    async def upload(
        self,
        report: BackfillReport,
        spans: Sequence[PartialSpan],
        project: "LangfuseSink",
        existing: ExistingIds,
    ) -> BackfillReport:
        """Send the spans of a run that its project lacks, and return the report with this run.

        Args:
            report: Report on the runs before.
            spans: The run's spans.
            project: The project that the run's tenant traces to.
            existing: Answers of the project to this report's earlier runs; new ones are added.
        """
        ended = [each.record for each in spans if each.record is not None]
        settled = [record for record in ended if self._is_settled(record)]
        sampled = [record for record in settled if project.is_sampled(record.span)]
        if not self._options.force:
            # Once for each trace of a report: runs of a chain share one.
            for asked in {_trace_of(record) for record in sampled} - set(existing):
                existing[asked] = await project.present(asked[1], _LANGFUSE_TIMEOUT)
        # No await between the check and the note: concurrent runs may share a span.
        missing = [record for record in sampled if self._claim(record, existing)]
        if not self._options.dry_run:
            await _send(project, missing)
        return replace(
            report,
            missing=(*report.missing, *(record.span for record in missing)),
            present=report.present + len(sampled) - len(missing),
            recent=report.recent + len(ended) - len(settled),
            unended=report.unended + len(spans) - len(ended),
            unsampled=report.unsampled + len(settled) - len(sampled),
            dry_run=self._options.dry_run,
        )

    def _is_settled(self, record: FinishedSpan) -> bool:
        # The caller takes the risk of duplicates, also with workers that are about to send.
        if self._options.force:
            return True
        age = timedelta(microseconds=(time.time_ns() - record.end_ns) // 1_000)
        return age >= self._options.older_than

    def _claim(self, record: FinishedSpan, existing: ExistingIds) -> bool:
        key = record.span.trace_id, record.span.span_id
        if key in self._sent or record.span.span_id in existing.get(_trace_of(record), ()):
            return False
        self._sent.add(key)
        return True


def _trace_of(record: FinishedSpan) -> tuple[str | None, str]:
    return record.span.tenant, record.span.trace_id


async def _send(project: "LangfuseSink", records: Sequence[FinishedSpan]) -> None:
    for begin in range(0, len(records), _BATCH_SPANS):
        # Flushed batch by batch, so that they do not overflow the sink's queue.
        for record in records[begin : begin + _BATCH_SPANS]:
            project.emit(record)
        if not await project.flush(_LANGFUSE_TIMEOUT):
            msg = (
                f"Langfuse did not accept all of {len(records)} spans within {_LANGFUSE_TIMEOUT}:"
                " run the backfill again when it can be reached"
            )
            raise LangfuseUnavailableError(msg)
