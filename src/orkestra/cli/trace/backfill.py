"""`orkestra trace backfill`: send what Langfuse lacks."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from temporalio.client import Client
from temporalio.converter import DataConverter

from orkestra.cli.options import (
    AsJson,
    duration_option,
    parse_name,
)
from orkestra.cli.output import write_json, write_line
from orkestra.cli.trace.options import (
    Children,
    Converter,
    WholeChain,
    load_converter,
    load_object,
)
from orkestra.cli.workflows.acting import Actor, RunId, with_actor
from orkestra.temporal.histories import (
    BackfillReport,
    backfill_trace,
    backfill_traces,
    count_traces,
)

_JUST_NOW: Final = timedelta(minutes=1)
_LISTED: Final = 100
_LEFT_OUT: Final = {
    "recent": "ended only just now",
    "unended": "without an end",
    "unsampled": "not sampled",
}


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is to be backfilled and how."""

    workflow_id: str | None
    query: str
    run_id: str | None
    chain: bool
    children: bool
    dry_run: bool
    force: bool
    older_than: timedelta

    def reports(self, client: Client) -> AsyncGenerator[BackfillReport]:
        """Do it, and tell of each workflow when it is done."""
        if self.workflow_id is not None:
            return self._one(client, self.workflow_id)
        return backfill_traces(
            client,
            self.query,
            children=self.children,
            dry_run=self.dry_run,
            force=self.force,
            older_than=self.older_than,
        )

    async def _one(self, client: Client, workflow_id: str) -> AsyncGenerator[BackfillReport]:
        yield await backfill_trace(
            client,
            workflow_id,
            run_id=self.run_id,
            whole_chain=self.chain,
            children=self.children,
            dry_run=self.dry_run,
            force=self.force,
            older_than=self.older_than,
        )

    async def total(self, client: Client) -> int:
        """How many workflows there are to visit."""
        if self.workflow_id is not None:
            return 1
        return await count_traces(client, self.query)


@with_actor
def backfill(
    workflow_id: Annotated[
        str | None,
        typer.Argument(parser=parse_name, metavar="WORKFLOW_ID", help="ID of the workflow."),
    ] = None,
    *,
    query: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help="Many workflows instead, as for `orkestra list`."),
    ] = None,
    actor: Actor,
    run_id: RunId = None,
    chain: WholeChain = False,
    children: Children = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Send all without asking; what is there is there twice then."),
    ] = False,
    older_than: Annotated[
        timedelta,
        duration_option(
            "1m", help="Leave out what ended less than this ago: a worker may be about to send it."
        ),
    ] = _JUST_NOW,
    converter: Converter = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="The mask that your workers use, if any."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send to Langfuse what it lacks of a workflow's trace, rebuilt from its history.

    Asks Langfuse first which observations it has, and sends nothing where it does not answer. Only
    what has ended is sent. Masks are not in the configuration: where your workers have one, give it
    here, too. --json prints a line for each workflow.

    Examples:
      orkestra trace backfill order-42 --tenant acme --dry-run
      orkestra trace backfill --query "ExecutionStatus='Terminated'" --all-tenants
    """
    if (workflow_id is None) == (query is None):
        msg = "give either WORKFLOW_ID or --query"
        raise typer.BadParameter(msg)
    if query is not None and (run_id is not None or chain):
        msg = "--run-id and --chain belong to WORKFLOW_ID: a query finds runs by itself"
        raise typer.BadParameter(msg)
    if mask is not None:
        masked = actor.config.langfuse.model_copy(update={"mask": load_object(mask, "--mask")})
        actor = replace(actor, config=actor.config.model_copy(update={"langfuse": masked}))
    wanted = _Wanted(
        workflow_id=workflow_id,
        query=query or "",
        run_id=run_id,
        chain=chain,
        children=children,
        dry_run=dry_run,
        force=force,
        older_than=older_than,
    )
    asyncio.run(_run(actor, load_converter(converter), wanted, as_json=as_json))


async def _run(actor: Actor, converter: DataConverter, wanted: _Wanted, *, as_json: bool) -> None:
    told = _Told(wanted)
    async with actor.client(is_traced=True, data_converter=converter) as client:
        total = await wanted.total(client)
        try:
            with _progress(total) as advance:
                async with aclosing(wanted.reports(client)) as reports:
                    async for report in reports:
                        advance()
                        told.take(report, as_json=as_json)
        finally:
            # What was done before an error was done.
            if not as_json and (told.workflows or not total):
                told.sum_up()


class _Told:
    """What was done, for people."""

    def __init__(self, wanted: _Wanted) -> None:
        self._dry_run = wanted.dry_run
        self._lists = wanted.workflow_id is not None
        self.workflows = 0
        self._counts: Counter[str] = Counter()

    def take(self, report: BackfillReport, *, as_json: bool) -> None:
        self.workflows += 1
        self._counts.update(
            missing=len(report.missing),
            present=report.present,
            recent=report.recent,
            unended=report.unended,
            unsampled=report.unsampled,
        )
        if as_json:
            write_json(report.as_dict())
        elif self._lists:
            self._list_spans(report)

    def _list_spans(self, report: BackfillReport) -> None:
        verb = "would send" if self._dry_run else "sent"
        for span in report.missing[:_LISTED]:
            write_line(f"{verb} {span.span_id} {span.name}")
        if more := report.missing[_LISTED:]:
            write_line(f"... and {len(more)} more")

    def sum_up(self) -> None:
        counts = self._counts
        said = [
            f"{counts['missing']} {'to send' if self._dry_run else 'sent'}",
            f"{counts['present']} there already",
        ]
        for name, words in _LEFT_OUT.items():
            if counts[name]:
                said.append(f"{counts[name]} {words}")
        workflows = "workflow" if self.workflows == 1 else "workflows"
        write_line(f"{self.workflows} {workflows}: spans {', '.join(said)}")


@contextmanager
def _progress(total: int) -> Generator[Callable[[], None]]:
    """A bar on standard error, where somebody watches and there is something to wait for."""
    console = Console(stderr=True)
    if total <= 1 or not console.is_terminal:
        yield _nothing
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Workflows", total=total)
        yield lambda: bar.advance(task)


def _nothing() -> None:
    """Nobody watches."""
