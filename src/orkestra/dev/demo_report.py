"""What the demo says to people.

What is shown while one waits: a spinner and a bar in a terminal, a few plain lines elsewhere.

What the demo found, and whether it is what it should be.
"""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orkestra.cli.options import write_json
from orkestra.dev.demo import APP, Options
from orkestra.dev.demo_stage import (
    Refusal,
    Stage,
    Tally,
    Trace,
    Traffic,
    WorkerProcess,
    branches,
    note_on,
    open_stage,
    try_forbidden_calls,
)
from orkestra.errors import ConfigurationError
from support_desk.desk import TASK_QUEUE
from support_desk.tickets import TicketFileError, read_tickets

if TYPE_CHECKING:
    from orkestra.otlp import TraceTree


_WIDTH: Final = 100
"""Columns of what is not a terminal."""
_KEEP_POLL_SECONDS: Final = 0.5
_ARRIVAL: Final = 15.0
"""Seconds in which a running worker sends what it has recorded."""
_LINES: Final = 5
_LOOK: Final = 0.2


def waiting(console: Console, what: str) -> AbstractContextManager[Any]:
    """Show a spinner beside what is waited for; nothing where nobody watches."""
    return console.status(f"{what} ...")


@contextmanager
def show_progress(console: Console, *, total: int) -> Generator[Callable[[], None]]:
    """Show how many of the tickets have ended; call what is yielded after each."""
    if not console.is_terminal:
        yield _Lines(console, total).count
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Tickets", total=total)
        yield lambda: bar.advance(task)


class _Lines:
    """Progress as a few lines."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._ended = 0

    def count(self) -> None:
        before = self._ended * _LINES // self._total
        self._ended += 1
        if self._ended * _LINES // self._total > before:
            self._console.print(f"{self._ended} of {self._total} tickets have ended")


@asynccontextmanager
async def follow_log(console: Console, worker: WorkerProcess) -> AsyncGenerator[None]:
    """Print what the worker logs, as it does."""
    shown = 0

    def show_new() -> None:
        nonlocal shown
        log = worker.log()
        complete = log.rfind("\n") + 1
        for line in log[shown:complete].splitlines():
            console.print(f"[dim]worker | {escape(line)}[/]", soft_wrap=True)
        shown = max(shown, complete)

    async def follow() -> None:
        while True:
            show_new()
            await asyncio.sleep(_LOOK)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        show_new()


@dataclass(frozen=True)
class Findings:
    """What the demo found.

    Attributes:
        tallies: How the tickets of each tenant ended.
        refusals: What became of the calls that must not work.
        trace: The trace of one ticket; None where the demo cannot see it.
        seconds: How long all of it took.
    """

    tallies: Mapping[str, Tally]
    refusals: Sequence[Refusal]
    trace: Trace | None
    seconds: float

    @property
    def total(self) -> Tally:
        """All tenants together."""
        return sum(self.tallies.values(), start=Tally())

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, a line each."""
        found = [
            f"{count} tickets of {tenant} failed with {kind}, for which the desk has no rule"
            for tenant, tally in self.tallies.items()
            for kind, count in tally.unexpected_failures.items()
        ]
        found += [f"not refused: {each.call}" for each in self.refusals if not each.refused]
        if self.trace is not None and not self.trace.is_whole:
            found.append(f"trace {self.trace.id} has {len(self.trace.roots)} roots, not one")
        return found

    def as_json(self, stage: Stage) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "seconds": round(self.seconds, 3),
            "temporal": {"address": stage.server.address, "ui": stage.server.ui_url},
            "langfuse": None if stage.page else stage.langfuse.base_url,
            "traces": stage.page and stage.page.url,
            "tenants": {name: tally.as_json() for name, tally in sorted(self.tallies.items())},
            "total": self.total.as_json(),
            "refusals": [each.as_json() for each in self.refusals],
            "trace": self.trace and self.trace.as_json(),
        }


_BAR: Final = 16
_INDENT: Final = 3
_ROWS: Final = 20
_COLUMNS: Final = ("tenant", "started", "completed", "escalated", "failed", "p50", "p95")
_STYLES: Final = {"WARNING": "yellow", "ERROR": "red"}


def print_opening(console: Console) -> None:
    """Say what is about to be seen."""
    _heading(console, "Orkestra: one support desk, many companies")
    console.print(
        "One Temporal server and one worker serve the tickets of several tenants. The code of the"
        " desk passes no tenant around: Orkestra carries it with each call, and checks it."
    )


def print_stage(console: Console, stage: Stage) -> None:
    """Say where everything is."""
    if stage.page:
        traces = f"{stage.page.url} (LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY send them away)"
    elif stage.langfuse.is_on:
        traces = f"go to Langfuse at {stage.langfuse.base_url}"
    else:
        traces = 'off: pip install "orkestra-core[langfuse]" to have them'
    table = Table.grid(padding=(0, 2))
    table.add_row("Temporal", Text(stage.server.address))
    table.add_row("its UI", Text(stage.server.ui_url or ""))
    worker = f"orkestra {' '.join(stage.worker.arguments)} (process {stage.worker.pid})"
    table.add_row("worker", Text(worker))
    table.add_row("traces", Text(traces))
    console.print()
    console.print(_indented(table))
    console.print()


def print_tallies(console: Console, tallies: Mapping[str, Tally]) -> None:
    """A row for each tenant, and one for all."""
    _heading(console, "How the tickets ended")
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, show_edge=False)
    total = sum(tallies.values(), start=Tally())
    for header, footer in zip(_COLUMNS, ("all", *_cells(total)), strict=True):
        justify: Literal["left", "right"] = "left" if header == "tenant" else "right"
        table.add_column(header, footer, justify=justify)
    for tenant, tally in _rows(tallies):
        table.add_row(tenant, *_cells(tally))
    console.print(_indented(table))
    lines = (
        "completed: by the assistant, by a human through an update, or closed by the customer",
        "escalated: nobody answered in time, so a timer did it",
        "failed: the customer is unknown, an error of the business and not of the desk",
    )
    console.print()
    for line in lines:
        console.print(_indented(Text(line, "dim")))


def _rows(tallies: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
    """The busiest tenants by name, and all others as one."""
    by_tickets = sorted(tallies, key=lambda tenant: (-tallies[tenant].started, tenant))
    for tenant in sorted(by_tickets[:_ROWS]):
        yield tenant, tallies[tenant]
    if others := by_tickets[_ROWS:]:
        yield f"{len(others)} others", sum((tallies[each] for each in others), start=Tally())


def _cells(tally: Tally) -> list[str]:
    counts = (tally.started, tally.completed, tally.escalated, tally.failed)
    times = (tally.percentile(0.5), tally.percentile(0.95))
    return [*map(str, counts), *("-" if time is None else f"{time:.2f} s" for time in times)]


def print_refusals(console: Console, refusals: Sequence[Refusal]) -> None:
    """Each call, what it was told, and what shows that nothing happened."""
    _heading(console, "Three calls that must not work")
    for number, refusal in enumerate(refusals, start=1):
        verdict = Text("refused", "green") if refusal.refused else Text("NOT REFUSED", "bold red")
        console.print(Text(f"{number}. {refusal.call}: ") + verdict)
        for text, style in ((refusal.error, "yellow"), (refusal.proof, "dim")):
            if text:
                console.print(_indented(Text(text, style)))


def print_trace(console: Console, stage: Stage, trace_id: str, trace: Trace | None) -> None:
    """One ticket as a tree."""
    _heading(console, "One ticket, one trace")
    if trace is None:
        url = f"{stage.langfuse.base_url}/trace/{trace_id}"
        console.print(Text(f"At {url}" if stage.langfuse.is_on else "None, for tracing is off"))
        return
    console.print(Text(f"The ticket that was attacked, start to end: trace {trace_id}"))
    for root in trace.roots:
        console.print(_indented(_tree(root)))


def _tree(root: "TraceTree") -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for tree, branch in branches(root):
        style = _STYLES.get(tree.span.level, "")
        table.add_row(
            Text(branch, "dim").append(tree.span.name, style or "default"),
            _written(tree.duration),
            Text(_bar(tree, root), style or "cyan"),
            Text(note_on(tree), style or "dim"),
        )
    return table


def _bar(tree: "TraceTree", root: "TraceTree") -> str:
    """When a span was, as a part of the whole."""
    begin, whole = root.span.start_ns, max(root.span.end_ns - root.span.start_ns, 1)
    first = min(round((tree.span.start_ns - begin) / whole * _BAR), _BAR - 1)
    length = max(round((tree.span.end_ns - tree.span.start_ns) / whole * _BAR), 1)
    return (" " * first + "━" * length)[:_BAR].ljust(_BAR)


def _written(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def print_verdict(console: Console, findings: Findings) -> None:
    """Say whether all was as it should be."""
    console.print()
    for problem in findings.problems:
        console.print(Text(f"Wrong: {problem}", "bold red"))
    if not findings.problems:
        tickets, tenants = findings.total.started, len(findings.tallies)
        refused = sum(each.refused for each in findings.refusals)
        console.print(
            Text(
                f"All as it should be: {tickets} tickets of {tenants} tenants ended,"
                f" {refused} forbidden calls were refused, in {findings.seconds:.0f} s.",
                "green",
            )
        )


def print_next(console: Console, stage: Stage, options: Options) -> None:
    """Say where one can look next."""
    if options.keep:
        places = [url for url in (stage.server.ui_url, stage.page and stage.page.url) if url]
        console.print(Text(f"Left up until Ctrl-C: look around at {' and '.join(places)}"))
    else:
        console.print(Text("To look around in the UI and at the traces: orkestra demo --keep"))
    console.print(Text(f"The code of the desk: {options.examples / APP}"))


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, _INDENT), expand=False)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, "bold"))


async def show(options: Options) -> bool:
    """Show the demo; returns whether everything was as it should be.

    Args:
        options: What the demo was asked for.

    Raises:
        ConfigurationError: The file of tickets is malformed; nothing was started.
        OrkestraError: The demo could not be shown.
    """
    began = time.monotonic()
    count = _count_tickets(options)
    console = Console(stderr=options.as_json, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    print_opening(console)
    async with AsyncExitStack() as stack:
        with waiting(console, "Starting a Temporal server and a worker"):
            stage = await stack.enter_async_context(open_stage(options, task_queue=TASK_QUEUE))
        if options.workers_log:
            await stack.enter_async_context(follow_log(console, stage.worker))
        findings = await _perform(console, stage, options, count=count, began=began)
        print_verdict(console, findings)
        print_next(console, stage, options)
        if options.as_json:
            write_json(findings.as_json(stage))
        if options.keep:
            await _until_told(stage)
    return not findings.problems


def _count_tickets(options: Options) -> int:
    try:
        return sum(1 for _ in read_tickets(options.tickets))
    except TicketFileError as error:
        raise ConfigurationError(str(error)) from error


async def _perform(
    console: Console, stage: Stage, options: Options, *, count: int, began: float
) -> Findings:
    print_stage(console, stage)
    traffic = Traffic(stage)
    with show_progress(console, total=count) as on_end:
        await stage.watched(traffic.run(options.tickets, on_end=on_end))
    print_tallies(console, traffic.tallies)
    attacks = await stage.watched(try_forbidden_calls(stage))
    print_refusals(console, attacks.refusals)
    with waiting(console, "Waiting for the traces"):
        trace = await _receive(stage, attacks.trace_id, keep=options.keep)
    print_trace(console, stage, attacks.trace_id, trace)
    return Findings(traffic.tallies, attacks.refusals, trace, time.monotonic() - began)


async def _receive(stage: Stage, trace_id: str, *, keep: bool) -> Trace | None:
    """Wait for a trace: a worker that ends sends everything, one that goes on does so in time."""
    if not keep:
        await stage.worker.end()
    if stage.page is None:
        return None
    deadline = time.monotonic() + _ARRIVAL
    while True:
        trace = Trace(trace_id, stage.page.trace(trace_id))
        if trace.is_whole or not keep or time.monotonic() >= deadline:
            return trace
        await asyncio.sleep(_KEEP_POLL_SECONDS)


async def _until_told(stage: Stage) -> None:
    """Leave everything up until Ctrl-C or SIGTERM."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    while not told.is_set():
        stage.check()
        await asyncio.sleep(_KEEP_POLL_SECONDS)
