"""`orkestra trace`: a workflow's trace rebuilt from its history, shown or sent to Langfuse."""

import asyncio
import importlib
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text
from temporalio.client import Client
from temporalio.converter import DataConverter

from orkestra.cli.actor import Actor, RunId, WorkflowId, actor_of
from orkestra.cli.options import (
    AsJson,
    command_group,
    duration_option,
    format_duration,
    parse_name,
    plain,
    progress_bar,
    takes,
    tree_rows,
    write_json,
    write_line,
)
from orkestra.errors import ConfigurationError
from orkestra.temporal.backfill import (
    BackfillReport,
    PartialSpan,
    backfill_trace,
    backfill_traces,
    count_traces,
    read_trace,
)
from orkestra.tracing import Level, SpanKind

WholeChain = Annotated[
    bool,
    typer.Option(
        "--chain", help="Include earlier and later runs by continue-as-new, retry or cron."
    ),
]
Children = Annotated[
    bool, typer.Option("--children/--no-children", help="Include child workflows.")
]
Converter = Annotated[
    str | None,
    typer.Option(
        "--data-converter",
        metavar="MODULE:NAME",
        help="Data converter to decode the payloads with, if they are encrypted.",
    ),
]


def load_object(place: str, option: str) -> Any:
    """Import the object of an option `MODULE:NAME`; the working directory is searched, too."""
    module, _, name = place.partition(":")
    # The console script does not search the working directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    # ValueError: an empty module name. TypeError: a relative one.
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        msg = f"{option} {place!r} cannot be imported: {error}; write MODULE:NAME"
        raise ConfigurationError(msg) from error


def load_converter(place: str | None) -> DataConverter:
    """Import the data converter of `--data-converter`, or return the default one."""
    if place is None:
        return DataConverter.default
    found = load_object(place, "--data-converter")
    if not isinstance(found, DataConverter):
        msg = f"--data-converter {place!r} is a {type(found).__name__}: name a DataConverter"
        raise ConfigurationError(msg)
    return found


# T63: Langfuse never merges a span that was sent twice, so young spans are the worker's.
_JUST_NOW: Final = timedelta(minutes=1)
_MOST_LISTED_SPANS: Final = 100
_SKIPPED: Final = {"recent": "too recent", "unended": "not ended", "unsampled": "not sampled"}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The workflows to backfill, and how."""

    workflow_id: str | None
    query: str
    run_id: str | None
    chain: bool
    children: bool
    dry_run: bool
    force: bool
    older_than: timedelta

    def reports(self, client: Client) -> AsyncGenerator[BackfillReport]:
        """Backfill, and yield a report for each workflow."""
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
        """Count the workflows to visit."""
        if self.workflow_id is not None:
            return 1
        return await count_traces(client, self.query)


@takes("actor", actor_of)
def backfill(
    workflow_id: Annotated[
        str | None,
        typer.Argument(parser=parse_name, metavar="WORKFLOW_ID", help="ID of the workflow."),
    ] = None,
    *,
    query: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help="Backfill all workflows of a list filter instead."),
    ] = None,
    run_id: RunId = None,
    chain: WholeChain = False,
    children: Children = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be sent.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Send all spans without asking Langfuse; existing observations are duplicated.",
        ),
    ] = False,
    older_than: Annotated[
        timedelta,
        duration_option(
            "Skip spans that ended more recently: a worker may still send them.  [default: 1m]"
        ),
    ] = _JUST_NOW,
    converter: Converter = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="Mask to apply, as your workers do."),
    ] = None,
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """Send a workflow's missing spans to Langfuse.

    Rebuilds the trace from the history, asks Langfuse which observations exist, and sends the other
    spans if they have ended. Sends nothing if Langfuse does not answer. If your workers use a mask,
    give it here, too: the configuration cannot hold one. --json prints one line for each workflow.

    Examples:
      orkestra trace backfill order-42 --tenant acme --dry-run
      orkestra trace backfill --query "ExecutionStatus='Terminated'" --all-tenants
    """
    if (workflow_id is None) == (query is None):
        msg = "give either WORKFLOW_ID or --query"
        raise typer.BadParameter(msg)
    if query is not None and (run_id is not None or chain):
        msg = "--run-id and --chain need WORKFLOW_ID: --query lists runs itself"
        raise typer.BadParameter(msg)
    if mask is not None:
        langfuse = actor.config.langfuse.model_copy(update={"mask": load_object(mask, "--mask")})
        actor = replace(actor, config=actor.config.model_copy(update={"langfuse": langfuse}))
    request = _Request(
        workflow_id=workflow_id,
        query=query or "",
        run_id=run_id,
        chain=chain,
        children=children,
        dry_run=dry_run,
        force=force,
        older_than=older_than,
    )
    asyncio.run(_backfill(actor, load_converter(converter), request, as_json=as_json))


async def _backfill(
    actor: Actor, converter: DataConverter, request: _Request, *, as_json: bool
) -> None:
    summary = _Summary(request)
    # The spans leave through the client's own exporter, so this client traces.
    async with actor.client(is_traced=True, data_converter=converter) as client:
        # Before the first send: a malformed query must not fail halfway.
        total = await request.total(client)
        try:
            with _progress(total) as advance:
                # Closed here: an error in the loop must not leave the generator to be collected.
                async with aclosing(request.reports(client)) as reports:
                    async for report in reports:
                        advance()
                        summary.add(report, as_json=as_json)
        finally:
            # An error does not undo the workflows before it.
            if not as_json and (summary.workflows or not total):
                summary.write()


class _Summary:
    """Counts of the backfilled spans."""

    def __init__(self, request: _Request) -> None:
        self._dry_run = request.dry_run
        self._lists_spans = request.workflow_id is not None
        self.workflows = 0
        self._counts: Counter[str] = Counter()

    def add(self, report: BackfillReport, *, as_json: bool) -> None:
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
        elif self._lists_spans:
            self._list_spans(report)

    def _list_spans(self, report: BackfillReport) -> None:
        verb = "would send" if self._dry_run else "sent"
        for span in report.missing[:_MOST_LISTED_SPANS]:
            write_line(f"{verb} {span.span_id} {span.name}")
        if more := report.missing[_MOST_LISTED_SPANS:]:
            write_line(f"... and {len(more)} more")

    def write(self) -> None:
        counts = self._counts
        parts = [
            f"{counts['missing']} spans {'to send' if self._dry_run else 'sent'}",
            f"{counts['present']} already in Langfuse",
            *(f"{counts[name]} {words}" for name, words in _SKIPPED.items() if counts[name]),
        ]
        workflows = "workflow" if self.workflows == 1 else "workflows"
        write_line(f"{self.workflows} {workflows}: {', '.join(parts)}")


@contextmanager
def _progress(total: int) -> Generator[Callable[[], None]]:
    """Show a progress bar on standard error, if that is a terminal and there is more than one."""
    console = Console(stderr=True)
    if total <= 1 or not console.is_terminal:
        yield lambda: None
        return
    with progress_bar(console, "Workflows", total=total, transient=True) as advance:
        yield advance


@takes("actor", actor_of)
def show(
    workflow_id: WorkflowId,
    *,
    run_id: RunId = None,
    chain: WholeChain = False,
    children: Children = True,
    converter: Converter = None,
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """Show a workflow's trace.

    Rebuilds the trace from the history, without Langfuse, and prints the start of each span after
    the first, its duration, attempts and failures. A signal has no duration. The history holds only
    the last attempt of an activity.

    Examples:
      orkestra trace show order-42 --tenant acme
      orkestra trace show acme:order-42 --all-tenants --chain --json
    """

    async def read(converter: DataConverter) -> list[PartialSpan]:
        async with actor.client(data_converter=converter) as client:
            return await read_trace(
                client, workflow_id, run_id=run_id, children=children, whole_chain=chain
            )

    roots = branches_of(asyncio.run(read(load_converter(converter))))
    if as_json:
        traces = [{"trace_id": r.partial.span.trace_id, "root": r.as_dict()} for r in roots]
        write_json({"traces": traces})
    else:
        draw(Console(highlight=False), roots)


def trace() -> None:
    """Show a workflow's trace from its history, or send its missing spans to Langfuse.

    Examples:
      orkestra trace show order-42 --tenant acme
      orkestra trace backfill order-42 --tenant acme --dry-run
    """


app: Final = command_group(trace, show=show, backfill=backfill)


_IMPLIED_STATUSES: Final = frozenset({"abandoned", "completed", "failed", "running"})
"""Statuses that the times and colours of a line show already."""

_NS_PER_MS: Final = 1_000_000
_NS_PER_SECOND: Final = 1_000_000_000
_STYLES: Final = {Level.DEFAULT: "", Level.WARNING: "yellow", Level.ERROR: "red"}
_TIME_COLUMNS: Final = 21
"""Columns of the two times after a name."""

_FEWEST_NAME_COLUMNS: Final = 20
"""Columns of a name in the deepest tree."""


@dataclass(frozen=True)
class Branch:
    """A span with its children in the order of their starts."""

    partial: PartialSpan
    children: "list[Branch]" = field(default_factory=list["Branch"])

    def as_dict(self) -> dict[str, Any]:
        """Return the branch for JSON, without arguments and results."""
        span, outcome = self.partial.span, self.partial.outcome
        end_ns = self.partial.end_ns
        return {
            "name": span.name,
            "span_id": span.span_id,
            "started": _moment(span.start_ns).isoformat(),
            "milliseconds": None if end_ns is None else (end_ns - span.start_ns) / _NS_PER_MS,
            "status": status_of(self.partial),
            "level": (outcome.level if outcome else Level.DEFAULT).value,
            "message": message_of(self.partial),
            "metadata": {**span.metadata, **(outcome.metadata if outcome else {})},
            "children": [child.as_dict() for child in self.children],
        }


def branches_of(spans: Sequence[PartialSpan]) -> list[Branch]:
    """Arrange spans as trees; a span whose parent is missing is a root."""
    branches = {each.span.span_id: Branch(each) for each in spans}
    roots: list[Branch] = []
    for branch in sorted(branches.values(), key=lambda each: each.partial.span.start_ns):
        # The parent may be in a run that was not read, as without --chain.
        parent = branches.get(branch.partial.span.parent_id or "")
        (roots if parent is None else parent.children).append(branch)
    return roots


def status_of(partial: PartialSpan) -> str:
    """Return the status of a span in one word."""
    if partial.outcome is None:
        return "abandoned" if partial.is_abandoned else "running"
    return str(partial.outcome.metadata.get("status", "completed"))


def message_of(partial: PartialSpan) -> str | None:
    """Return the message of the failure, if any."""
    message = partial.outcome.message if partial.outcome else None
    return None if message is None else str(message.value)


def draw(console: Console, roots: Sequence[Branch]) -> None:
    """Print trees, one line for each span and one below it for its failure."""
    for root in roots:
        span = root.partial.span
        began = _moment(span.start_ns).isoformat(sep=" ", timespec="milliseconds")
        _print(console, Text(f"trace {span.trace_id}", "bold"), "start", "duration")
        console.print(
            Text(began.replace("+00:00", " UTC"), "dim"), overflow="ellipsis", no_wrap=True
        )
        for branch, before, below in tree_rows(root):
            _draw_one(console, branch.partial, before, below, span.start_ns)


def _draw_one(
    console: Console, partial: PartialSpan, before: str, below: str, origin_ns: int
) -> None:
    span, outcome = partial.span, partial.outcome
    style = _STYLES[outcome.level] if outcome else "dim" if partial.is_abandoned else "cyan"
    name = Text.assemble((before, "dim"), (plain(span.name), style), (_note(partial), "dim"))
    if partial.end_ns is None:
        took = status_of(partial)
    else:
        # The history does not record how long the handler of a signal took.
        is_signal = span.kind is SpanKind.SIGNAL
        took = "-" if is_signal else _duration(partial.end_ns - span.start_ns)
    _print(console, name, f"+{_duration(span.start_ns - origin_ns)}", took)
    if (message := message_of(partial)) is not None:
        line = Text.assemble((below, "dim"), (plain(message), style))
        line.truncate(console.width, overflow="ellipsis")
        console.print(line, no_wrap=True)


def _print(console: Console, name: Text, began: str, took: str) -> None:
    room = max(console.width - _TIME_COLUMNS, _FEWEST_NAME_COLUMNS)
    # Padded by rich, which counts the columns of wide characters.
    name.truncate(room, overflow="ellipsis", pad=True)
    times = Text(f" {began:>10}{took:>10}", "dim")
    console.print(name + times, no_wrap=True, overflow="crop")


def _note(partial: PartialSpan) -> str:
    """Return the facts to print after a name."""
    metadata = partial.span.metadata
    notes: list[str] = []
    if partial.span.kind is SpanKind.WORKFLOW:
        notes.append(str(metadata.get("workflow_id", "")))
    attempt = metadata.get("attempt", 1)
    # An activity that ended before a worker took it has no attempt in the history.
    if attempt == 0 and partial.outcome is not None:
        notes.append("never started")
    elif attempt not in (0, 1):
        notes.append(f"attempt {attempt}")
    if metadata.get("is_local"):
        notes.append("local")
    if (status := status_of(partial)) not in _IMPLIED_STATUSES:
        notes.append(status.replace("_", " "))
    return plain("".join(f"  {note}" for note in notes))


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / _NS_PER_SECOND, UTC)


def _duration(nanoseconds: int) -> str:
    return format_duration(timedelta(microseconds=nanoseconds / 1000))
