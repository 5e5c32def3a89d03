"""`backfill_trace()` and `backfill_traces()`: send what Langfuse lacks of a trace.

Of the spans of a run those that Langfuse lacks, to where the tenant's spans go.

What a backfill did, or would do.

`read_trace()`: a workflow's trace from its history alone, without Langfuse.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, cast

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
    run_info,
    spans_from_history,
)
from orkestra.temporal.plugin import plugin_of
from orkestra.tracing import CaptureLimits, Span, SpanRecord, TraceProject


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillReport:
    """What became of one execution's trace.

    Attributes:
        workflow_id: The workflow's ID on the server.
        run_id: Its run, the first of those that were read.
        missing: The spans that were sent, or with `dry_run` would be.
        present: How many spans Langfuse had already.
        recent: How many were left out because they have only just ended: a worker may be about to
            send them.
        unended: How many were left out because they have no end: they are going on, or the run
            ended without waiting for them.
        unsampled: How many were left out because their trace is not sampled.
        dry_run: Whether nothing was sent.
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
        """How many spans were sent."""
        return 0 if self.dry_run else len(self.missing)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can say it; of the spans what they are, and nothing of their values."""
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


_PATIENCE: Final = timedelta(seconds=30)
_BATCH: Final = 500
_MICROSECOND: Final = timedelta(microseconds=1)
_NANOSECONDS: Final = 1000

ExistingIds = dict[tuple[str | None, str], frozenset[str]]
"""What the tenant's project has of the trace, for each that was asked for."""


@dataclass(frozen=True, kw_only=True)
class BackfillOptions:
    """How to backfill.

    Attributes:
        dry_run: Ask and report only.
        force: Send everything that has ended, without asking.
        older_than: Leave out what ended less than this ago.
    """

    dry_run: bool
    force: bool
    older_than: timedelta


class Uploader:
    """Sends each span once at most, however often it is asked to.

    What Langfuse has just taken it cannot tell yet, so what was sent is remembered here.
    """

    def __init__(self, options: BackfillOptions) -> None:
        """Send in this options."""
        self._options = options
        self._taken: set[tuple[str, str]] = set()

    async def add(
        self,
        report: BackfillReport,
        episodes: Sequence[PartialSpan],
        project: TraceProject,
        existing: ExistingIds,
    ) -> BackfillReport:
        """Send what is missing of a run.

        Args:
            report: What was done before.
            episodes: The run.
            project: Where its spans go.
            existing: What the project has said for this report; what it says now is added.

        Returns:
            The report with this run.
        """
        ended = [each.record for each in episodes if each.record is not None]
        settled = [record for record in ended if self._is_settled(record)]
        sampled = [record for record in settled if project.is_sampled(record.span)]
        if not self._options.force:
            for asked in {_place(record) for record in sampled} - set(existing):
                existing[asked] = await project.present(asked[1], _PATIENCE)
        missing = [record for record in sampled if self._take(record, existing)]
        if not self._options.dry_run:
            await _send(project, missing)
        return replace(
            report,
            missing=(*report.missing, *(record.span for record in missing)),
            present=report.present + len(sampled) - len(missing),
            recent=report.recent + len(ended) - len(settled),
            unended=report.unended + len(episodes) - len(ended),
            unsampled=report.unsampled + len(settled) - len(sampled),
            dry_run=self._options.dry_run,
        )

    def _is_settled(self, record: SpanRecord) -> bool:
        if self._options.force:
            return True
        age_ns = time.time_ns() - record.end_ns
        return age_ns >= self._options.older_than // _MICROSECOND * _NANOSECONDS

    def _take(self, record: SpanRecord, existing: ExistingIds) -> bool:
        """Whether the span is missing; asked for the second time, it is not."""
        key = record.span.trace_id, record.span.span_id
        if key in self._taken or record.span.span_id in existing.get(_place(record), ()):
            return False
        self._taken.add(key)
        return True


def _place(record: SpanRecord) -> tuple[str | None, str]:
    return record.span.tenant, record.span.trace_id


async def _send(project: TraceProject, records: Sequence[SpanRecord]) -> None:
    for begin in range(0, len(records), _BATCH):
        for record in records[begin : begin + _BATCH]:
            project.emit(record)
        if not await project.flush(_PATIENCE):
            msg = (
                f"Langfuse did not take all of {len(records)} spans within {_PATIENCE}:"
                " run the backfill again when it can be reached"
            )
            raise LangfuseUnavailableError(msg)


_JUST_NOW: Final = timedelta(minutes=1)
_CONCURRENCY: Final = 4


async def backfill_trace(
    client: Client,
    workflow_id: str,
    *,
    run_id: str | None = None,
    children: bool = True,
    whole_chain: bool = False,
    dry_run: bool = False,
    force: bool = False,
    older_than: timedelta = _JUST_NOW,
) -> BackfillReport:
    """Send what Langfuse lacks of a workflow's trace, rebuilt from its history.

    The spans are those that a worker would have sent: the same ids, parents, names and start times.
    Langfuse is asked first which it has, because it never merges two. What it has just taken it can
    tell only some two seconds later: wait as long before the same workflow is backfilled again.

    Args:
        client: A client with an `OrkestraPlugin`, of the workflow's tenant or of `ALL_TENANTS`. Its
            data converter reads arguments and results.
        workflow_id: The workflow, running or closed.
        run_id: A run of it; None means the latest.
        children: Also the workflows that it started, and theirs.
        whole_chain: Also the runs before and after, by continue-as-new, retry or cron.
        dry_run: Ask and report only.
        force: Send everything that has ended without asking: where Langfuse has some of it, it is
            there twice for good.
        older_than: Leave out what ended less than this ago; a worker may be about to send it.

    Returns:
        What was sent and what was left out.

    Raises:
        ExecutionNotFoundError: The server does not know the workflow or the run.
        LangfuseUnavailableError: Langfuse does not say what it has, and nothing was sent; or it did
            not take what was sent.
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
    older_than: timedelta = _JUST_NOW,
    concurrency: int = _CONCURRENCY,
) -> AsyncGenerator[BackfillReport]:
    """Send what Langfuse lacks of the traces of many workflows.

    Args:
        client: As for `backfill_trace()`; a bound client finds its tenant's workflows only.
        query: Which workflows, as in `Client.list_workflows`: each run that it finds is visited.
        children: Also their children that the query does not find by itself.
        dry_run: Ask and report only.
        force: Send everything without asking.
        older_than: Leave out what ended less than this ago.
        concurrency: How many are visited at once.

    Yields:
        A report on each run when it is done. One that the server forgot meanwhile has none, nor
        has one whose tenant is unknown, or was refused as the bound tenant's.

    Raises:
        InvalidQueryError: The query does not parse.
        LangfuseUnavailableError: As in `backfill_trace()`; the rest is not visited.
        ConfigurationError: As in `backfill_trace()`.
    """
    options = BackfillOptions(dry_run=dry_run, force=force, older_than=older_than)
    walker = _Walker(client, options, children=children, whole_chain=False)
    found = _listed(client, query)
    tasks: set[asyncio.Task[BackfillReport | None]] = set()
    try:
        while True:
            while len(tasks) < concurrency and (execution := await anext(found, None)):
                tasks.add(asyncio.create_task(walker.backfill_listed(execution)))
            if not tasks:
                return
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                report = await task
                tasks.discard(task)
                if report is not None:
                    yield report
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def count_traces(client: Client, query: str) -> int:
    """How many runs `backfill_traces()` would visit now.

    Args:
        client: As for `backfill_traces()`.
        query: As for `backfill_traces()`.

    Raises:
        InvalidQueryError: The query does not parse.
    """
    with _refusing(query):
        return (await client.count_workflows(query)).count


async def _listed(client: Client, query: str) -> AsyncIterator[Execution]:
    with _refusing(query):
        async for found in client.list_workflows(query):
            yield Execution(found.id, found.run_id)


@contextmanager
def _refusing(query: str) -> Generator[None]:
    try:
        yield
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        msg = f"query {query!r} is refused: {error.message}"
        raise InvalidQueryError(msg) from error


class _Walker:
    """Reads executions and hands each run on."""

    def __init__(
        self, client: Client, options: BackfillOptions, *, children: bool, whole_chain: bool
    ) -> None:
        self._client = client
        self._plugin = plugin_of(client)
        self._uploader = Uploader(options)
        self._children = children
        self._whole_chain = whole_chain

    async def backfill_listed(self, execution: Execution) -> BackfillReport | None:
        """Visit an execution that may have gone, or prove to be of nobody who is known here."""
        try:
            return await self.backfill(execution)
        except (ExecutionNotFoundError, TenantMismatchError, UnknownTenantError):
            return None

    async def backfill(self, execution: Execution) -> BackfillReport:
        """Visit an execution and what belongs to it."""
        report: BackfillReport | None = None
        existing: ExistingIds = {}
        async for run in fetch_runs(
            self._client, execution, children=self._children, whole_chain=self._whole_chain
        ):
            report = report or BackfillReport(workflow_id=run.workflow_id, run_id=run.run_id)
            report = await self._backfill_run(run, report, existing)
        # There is at least the run that was asked for.
        return cast("BackfillReport", report)

    async def _backfill_run(
        self, run: RunHistory, report: BackfillReport, existing: ExistingIds
    ) -> BackfillReport:
        tenants = TenantResolver(self._plugin.tenancy)
        tenant = tenants.of_run(run)
        project = await self._plugin.project_of(tenant)
        if project is None:
            return report
        options = self._plugin.tracing_options
        context = RunHistoryContext(
            run,
            run_info(run, tenants, ui_url=options.ui_url),
            tenants,
            self._client.data_converter,
            project.limits,
            options,
        )
        return await self._uploader.add(
            report, await spans_from_history(context), project, existing
        )


async def read_trace(
    client: Client,
    workflow_id: str,
    *,
    run_id: str | None = None,
    children: bool = True,
    whole_chain: bool = False,
    limits: CaptureLimits | None = None,
) -> list[PartialSpan]:
    """Tell what happened in a workflow, as spans.

    Args:
        client: A client with an `OrkestraPlugin`, of the workflow's tenant or of `ALL_TENANTS`. Its
            data converter reads arguments, results and failures.
        workflow_id: The workflow, running or closed.
        run_id: A run of it; None means the latest.
        children: Also the workflows that it started, and theirs.
        whole_chain: Also the runs before and after, by continue-as-new, retry or cron.
        limits: What of arguments and results to show; None shows nothing of them.

    Returns:
        What ended and what is going on, run by run, each run first.

    Raises:
        ExecutionNotFoundError: The server does not know the workflow or the run.
        ConfigurationError: The client has no `OrkestraPlugin`.
    """
    plugin = plugin_of(client)
    tenants = TenantResolver(plugin.tenancy)
    limits = limits or CaptureLimits(input=False, output=False)
    found: list[PartialSpan] = []
    async for run in fetch_runs(
        client, Execution(workflow_id, run_id), children=children, whole_chain=whole_chain
    ):
        context = RunHistoryContext(
            run,
            run_info(run, tenants, ui_url=plugin.tracing_options.ui_url),
            tenants,
            client.data_converter,
            limits,
            plugin.tracing_options,
        )
        found += await spans_from_history(context)
    return found
