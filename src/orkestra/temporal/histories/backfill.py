"""`backfill_trace()` and `backfill_traces()`: send what Langfuse lacks of a trace."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, cast

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import (
    ExecutionNotFoundError,
    InvalidQueryError,
    TenantMismatchError,
    UnknownTenantError,
)
from orkestra.temporal.histories.facts import TenantReader, facts_of
from orkestra.temporal.histories.reading import Execution, RunHistory, read_runs
from orkestra.temporal.histories.reports import BackfillReport
from orkestra.temporal.histories.sending import Answers, Backfiller, Manner
from orkestra.temporal.histories.spans import episodes_of
from orkestra.temporal.histories.telling import Telling
from orkestra.temporal.plugin import plugin_of

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
    manner = Manner(dry_run=dry_run, force=force, older_than=older_than)
    visits = _Visits(client, manner, children=children, whole_chain=whole_chain)
    return await visits.to(Execution(workflow_id, run_id))


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
    manner = Manner(dry_run=dry_run, force=force, older_than=older_than)
    visits = _Visits(client, manner, children=children, whole_chain=False)
    found = _listed(client, query)
    tasks: set[asyncio.Task[BackfillReport | None]] = set()
    try:
        while True:
            while len(tasks) < concurrency and (execution := await anext(found, None)):
                tasks.add(asyncio.create_task(visits.to_listed(execution)))
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


class _Visits:
    """Reads executions and hands each run on."""

    def __init__(
        self, client: Client, manner: Manner, *, children: bool, whole_chain: bool
    ) -> None:
        self._client = client
        self._plugin = plugin_of(client)
        self._backfiller = Backfiller(manner)
        self._children = children
        self._whole_chain = whole_chain

    async def to_listed(self, execution: Execution) -> BackfillReport | None:
        """Visit an execution that may have gone, or prove to be of nobody who is known here."""
        try:
            return await self.to(execution)
        except (ExecutionNotFoundError, TenantMismatchError, UnknownTenantError):
            return None

    async def to(self, execution: Execution) -> BackfillReport:
        """Visit an execution and what belongs to it."""
        report: BackfillReport | None = None
        answers: Answers = {}
        async for run in read_runs(
            self._client, execution, children=self._children, whole_chain=self._whole_chain
        ):
            report = report or BackfillReport(workflow_id=run.workflow_id, run_id=run.run_id)
            report = await self._to_run(run, report, answers)
        # There is at least the run that was asked for.
        return cast("BackfillReport", report)

    async def _to_run(
        self, run: RunHistory, report: BackfillReport, answers: Answers
    ) -> BackfillReport:
        tenants = TenantReader(self._plugin.tenancy)
        tenant = tenants.of_run(run)
        project = await self._plugin.project_of(tenant)
        if project is None:
            return report
        options = self._plugin.tracing_options
        telling = Telling(
            run,
            facts_of(run, tenants, ui_url=options.ui_url),
            tenants,
            self._client.data_converter,
            project.limits,
            options,
        )
        return await self._backfiller.add(report, await episodes_of(telling), project, answers)
