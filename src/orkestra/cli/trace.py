"""The group of commands.

`orkestra trace backfill`: send what Langfuse lacks.

`orkestra trace show`: a trace from history alone.

Options that both commands have.

A trace as a tree on a terminal.
"""

import asyncio
import importlib
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from temporalio.client import Client
from temporalio.converter import DataConverter

from orkestra.cli.actor import Actor, RunId, WorkflowId, with_actor
from orkestra.cli.options import (
    AsJson,
    duration_option,
    help_of,
    parse_name,
    plain,
    plain_app,
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
        "--chain", help="Also the runs before and after, by continue-as-new, retry or cron."
    ),
]
Children = Annotated[
    bool, typer.Option("--children/--no-children", help="Also the workflows that it started.")
]
Converter = Annotated[
    str | None,
    typer.Option(
        "--data-converter",
        metavar="MODULE:NAME",
        help="Data converter that reads the values, for those that are encrypted.",
    ),
]


def load_object(place: str, option: str) -> Any:
    """Import what an option names, from installed modules or the working directory.

    Args:
        place: `module:name`.
        option: The option, for the error.

    Raises:
        ConfigurationError: It cannot be found.
    """
    module, _, name = place.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        msg = f"{option} {place!r} cannot be imported: {error}; write MODULE:NAME"
        raise ConfigurationError(msg) from error


def load_converter(place: str | None) -> DataConverter:
    """The data converter that an option names, or the default one.

    Raises:
        ConfigurationError: It cannot be found, or is something else.
    """
    if place is None:
        return DataConverter.default
    found = load_object(place, "--data-converter")
    if not isinstance(found, DataConverter):
        msg = f"--data-converter {place!r} is a {type(found).__name__}, and no DataConverter"
        raise ConfigurationError(msg)
    return found


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


@with_actor
def show(
    workflow_id: WorkflowId,
    *,
    actor: Actor,
    run_id: RunId = None,
    chain: WholeChain = False,
    children: Children = True,
    converter: Converter = None,
    as_json: AsJson = False,
) -> None:
    """Draw a workflow's trace from its history, without Langfuse.

    Shows when each span began after the first, how long it took, attempts and failures; a signal
    has no duration. Of an activity the history has the last attempt only.

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
    """Draw a workflow's trace from its history, or send to Langfuse what it lacks of it.

    Examples:
      orkestra trace show order-42 --tenant acme
      orkestra trace backfill order-42 --tenant acme --dry-run
    """


app: Final = plain_app()
app.callback(help=help_of(trace))(trace)
app.command(help=help_of(show))(show)
app.command(help=help_of(backfill))(backfill)


_SEEN: Final = frozenset({"abandoned", "completed", "failed", "running"})
"""What a line says by its times and colours already."""

_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1000 * _MILLISECOND
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_STYLES: Final[Mapping[Level, str]] = {
    Level.DEFAULT: "",
    Level.WARNING: "yellow",
    Level.ERROR: "red",
}
_TIMES: Final = 21
"""Columns of the two times behind a name."""

_AT_LEAST: Final = 20
"""Columns that a name gets in the deepest tree."""


@dataclass(frozen=True)
class Branch:
    """Span with its children.

    Attributes:
        partial: The span as far as history has it.
        children: What hangs under it, in the order in which it began.
    """

    partial: PartialSpan
    children: "list[Branch]" = field(default_factory=list["Branch"])

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can say it, without arguments and results."""
        span, outcome = self.partial.span, self.partial.outcome
        end_ns = self.partial.end_ns
        return {
            "name": span.name,
            "span_id": span.span_id,
            "started": _moment(span.start_ns).isoformat(),
            "milliseconds": None if end_ns is None else (end_ns - span.start_ns) / _MILLISECOND,
            "status": status_of(self.partial),
            "level": (outcome.level if outcome else Level.DEFAULT).value,
            "message": message_of(self.partial),
            "metadata": {**span.metadata, **(outcome.metadata if outcome else {})},
            "children": [child.as_dict() for child in self.children],
        }


def branches_of(spans: Sequence[PartialSpan]) -> list[Branch]:
    """The spans as trees; what hangs under something that is not there is a root."""
    branches = {each.span.span_id: Branch(each) for each in spans}
    roots: list[Branch] = []
    for branch in sorted(branches.values(), key=lambda each: each.partial.span.start_ns):
        parent = branches.get(branch.partial.span.parent_id or "")
        (roots if parent is None else parent.children).append(branch)
    return roots


def status_of(partial: PartialSpan) -> str:
    """How it ended, in one word."""
    if partial.outcome is None:
        return "abandoned" if partial.is_abandoned else "running"
    return str(partial.outcome.metadata.get("status", "completed"))


def message_of(partial: PartialSpan) -> str | None:
    """What went wrong."""
    message = partial.outcome.message if partial.outcome else None
    return None if message is None else str(message.value)


def draw(console: Console, roots: Sequence[Branch]) -> None:
    """Print trees, a line for each span and one for what went wrong in it."""
    for root in roots:
        span = root.partial.span
        began = _moment(span.start_ns).isoformat(sep=" ", timespec="milliseconds")
        _print(console, Text(f"trace {span.trace_id}", "bold"), "began", "took")
        console.print(
            Text(began.replace("+00:00", " UTC"), "dim"), overflow="ellipsis", no_wrap=True
        )
        for branch, before, beside in _lines(root):
            _draw_one(console, branch.partial, before, beside, span.start_ns)


def _draw_one(
    console: Console, partial: PartialSpan, before: str, beside: str, origin_ns: int
) -> None:
    span, outcome = partial.span, partial.outcome
    style = _STYLES[outcome.level] if outcome else "dim" if partial.is_abandoned else "cyan"
    name = Text.assemble((before, "dim"), (plain(span.name), style), (_note(partial), "dim"))
    if partial.end_ns is None:
        took = status_of(partial)
    else:
        # Of a signal the history does not say how long its handler took.
        is_signal = span.kind is SpanKind.SIGNAL
        took = "-" if is_signal else _duration(partial.end_ns - span.start_ns)
    _print(console, name, f"+{_duration(span.start_ns - origin_ns)}", took)
    if (message := message_of(partial)) is not None:
        line = Text.assemble((beside, "dim"), (plain(message), style))
        line.truncate(console.width, overflow="ellipsis")
        console.print(line, no_wrap=True)


def _print(console: Console, name: Text, began: str, took: str) -> None:
    room = max(console.width - _TIMES, _AT_LEAST)
    name.truncate(room, overflow="ellipsis", pad=True)
    times = Text(f" {began:>10}{took:>10}", "dim")
    console.print(name + times, no_wrap=True, overflow="crop")


def _note(partial: PartialSpan) -> str:
    """What is worth saying beside a name."""
    metadata = partial.span.metadata
    notes: list[str] = []
    if partial.span.kind is SpanKind.WORKFLOW:
        notes.append(str(metadata.get("workflow_id", "")))
    attempt = metadata.get("attempt", 1)
    if attempt == 0 and partial.outcome is not None:
        notes.append("never began")
    elif attempt not in (0, 1):
        notes.append(f"attempt {attempt}")
    if metadata.get("is_local"):
        notes.append("local")
    if (status := status_of(partial)) not in _SEEN:
        notes.append(status.replace("_", " "))
    return plain("".join(f"  {note}" for note in notes))


def _lines(branch: Branch, before: str = "", indent: str = "") -> Iterator[tuple[Branch, str, str]]:
    """Each branch with what stands before its name, and before the line below it."""
    yield branch, before, indent + ("│  " if branch.children else "   ")
    for child in branch.children:
        is_last = child is branch.children[-1]
        deeper = indent + ("   " if is_last else "│  ")
        yield from _lines(child, indent + ("└─ " if is_last else "├─ "), deeper)


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / _SECOND, UTC)


def _duration(nanoseconds: int) -> str:
    if nanoseconds < _SECOND:
        return f"{nanoseconds / _MILLISECOND:.0f} ms"
    seconds = nanoseconds / _SECOND
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    if seconds < _HOUR:
        return f"{seconds // 60:.0f} m {seconds % 60:02.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // 60:02.0f} m"
