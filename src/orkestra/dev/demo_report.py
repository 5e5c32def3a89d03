"""The demo as people see it: its progress, its results and whether they are as expected.

In a terminal a spinner and a bar show the progress, elsewhere a few plain lines do.
"""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orkestra.cli.options import format_duration, progress_bar, tree_rows, write_json
from orkestra.dev.demo_stage import (
    Attack,
    DemoOptions,
    DemoStage,
    DemoTrace,
    DeskProcess,
    Tally,
    Traffic,
    note_on,
    open_stage,
    try_forbidden_calls,
)
from orkestra.errors import ConfigurationError
from support_desk.tickets import TicketFileError, read_tickets

if TYPE_CHECKING:
    from orkestra.otlp import TraceTree


_WIDTH_WITHOUT_TERMINAL: Final = 100
_KEEP_POLL_SECONDS: Final = 0.5
_TRACE_SECONDS: Final = 15.0
"""Time limit for a running worker to send the spans that it has recorded."""
_PROGRESS_LINES: Final = 5
_LOG_POLL_SECONDS: Final = 0.2


async def show(options: DemoOptions) -> bool:
    """Show the demo, and return whether all results are as expected."""
    started = time.monotonic()
    # First, before anything is started: a malformed file is found at once.
    count = _count_tickets(options)
    # With --json, standard output has only the JSON.
    console = Console(stderr=options.as_json, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    print_opening(console)
    async with AsyncExitStack() as stack:
        with console.status("Starting a Temporal server and a worker ..."):
            stage = await stack.enter_async_context(open_stage(options))
        if options.workers_log:
            await stack.enter_async_context(follow_log(console, stage.worker))
        findings = await _perform(console, stage, options, count=count, started=started)
        print_summary(console, findings)
        print_next_steps(console, stage, options)
        if options.as_json:
            write_json(findings.as_json(stage))
        if options.keep:
            await _until_stopped(stage)
    return not findings.problems


def _count_tickets(options: DemoOptions) -> int:
    try:
        return sum(1 for _ in read_tickets(options.tickets))
    except TicketFileError as error:
        raise ConfigurationError(str(error)) from error


async def _perform(
    console: Console, stage: DemoStage, options: DemoOptions, *, count: int, started: float
) -> "Findings":
    print_stage(console, stage)
    traffic = Traffic(stage)
    with show_progress(console, total=count) as on_end:
        await stage.watched(traffic.run(options.tickets, on_end=on_end))
    print_tallies(console, traffic.tallies)
    attacks, trace_id = await stage.watched(try_forbidden_calls(stage))
    print_attacks(console, attacks)
    with console.status("Waiting for the traces ..."):
        trace = await _receive_trace(stage, trace_id, keep=options.keep)
    print_trace(console, stage, trace_id, trace)
    return Findings(traffic.tallies, attacks, trace, time.monotonic() - started)


async def _receive_trace(stage: DemoStage, trace_id: str, *, keep: bool) -> DemoTrace | None:
    """Wait for a trace: a worker sends its spans when it ends, or after a while."""
    if not keep:
        await stage.worker.end()
    if stage.page is None:
        return None
    deadline = time.monotonic() + _TRACE_SECONDS
    while True:
        trace = DemoTrace(trace_id, stage.page.trace(trace_id))
        if trace.is_whole or not keep or time.monotonic() >= deadline:
            return trace
        await asyncio.sleep(_KEEP_POLL_SECONDS)


async def _until_stopped(stage: DemoStage) -> None:
    """Keep everything running until Ctrl-C or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        stage.check()
        await asyncio.sleep(_KEEP_POLL_SECONDS)


@contextmanager
def show_progress(console: Console, *, total: int) -> Generator[Callable[[], None]]:
    """Show how many tickets have ended; call the yielded function after each."""
    if console.is_terminal:
        with progress_bar(console, "Tickets", total=total) as advance:
            yield advance
        return
    ended = 0

    def count() -> None:
        nonlocal ended
        before, ended = ended * _PROGRESS_LINES // total, ended + 1
        if ended * _PROGRESS_LINES // total > before:
            console.print(f"{ended} of {total} tickets done")

    yield count


@asynccontextmanager
async def follow_log(console: Console, worker: DeskProcess) -> AsyncGenerator[None]:
    """Print the worker's log as it grows."""
    shown = 0

    def show_new() -> None:
        nonlocal shown
        log = worker.log()
        # A line may be written in parts.
        complete = log.rfind("\n") + 1
        for line in log[shown:complete].splitlines():
            console.print(f"[dim]worker | {escape(line)}[/]", soft_wrap=True)
        shown = max(shown, complete)

    async def follow() -> None:
        while True:
            show_new()
            await asyncio.sleep(_LOG_POLL_SECONDS)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        # `show_new` after it: the last lines are often the reason of the end.
        following.cancel()
        show_new()


@dataclass(frozen=True)
class Findings:
    """Results of the demo; `trace` is None if the traces went elsewhere."""

    tallies: Mapping[str, Tally]
    attacks: Sequence[Attack]
    trace: DemoTrace | None
    seconds: float

    @property
    def total(self) -> Tally:
        """Tally of all tenants."""
        return sum(self.tallies.values(), start=Tally())

    @property
    def problems(self) -> list[str]:
        """Unexpected results, one line each."""
        found = [
            f"{count} tickets of {tenant} failed with the unexpected error {kind}"
            for tenant, tally in self.tallies.items()
            for kind, count in tally.unexpected_failures.items()
        ]
        found += [f"not refused: {each.call}" for each in self.attacks if not each.refused]
        if self.trace is not None and not self.trace.is_whole:
            found.append(f"trace {self.trace.id} has {len(self.trace.roots)} roots instead of one")
        return found

    def as_json(self, stage: DemoStage) -> dict[str, Any]:
        """Return the results for `--json`."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "seconds": round(self.seconds, 3),
            "temporal": {"address": stage.server.address, "ui": stage.server.ui_url},
            "langfuse": None if stage.page else stage.langfuse.base_url,
            "traces": stage.page and stage.page.url,
            "tenants": {name: tally.as_json() for name, tally in sorted(self.tallies.items())},
            "total": self.total.as_json(),
            "refusals": [each.as_json() for each in self.attacks],
            "trace": self.trace and self.trace.as_json(),
        }


_BAR_COLUMNS: Final = 16
_INDENT_COLUMNS: Final = 3
_MOST_TENANT_ROWS: Final = 20
_COLUMNS: Final = ("tenant", "started", "completed", "escalated", "failed", "p50", "p95")
_STYLES: Final = {"WARNING": "yellow", "ERROR": "red"}


def print_opening(console: Console) -> None:
    """Print what the demo is about."""
    _heading(console, "Orkestra: one support desk, many companies")
    console.print(
        "One Temporal server and one worker serve the tickets of several tenants. The code of the"
        " desk passes no tenant: Orkestra sends it with each call, and checks it."
    )


def print_stage(console: Console, stage: DemoStage) -> None:
    """Print the addresses of everything that runs."""
    if stage.page:
        traces = f"{stage.page.url} (set the LANGFUSE_* keys to use Langfuse)"
    elif stage.langfuse.is_on:
        traces = f"sent to Langfuse at {stage.langfuse.base_url}"
    else:
        traces = 'off: pip install "orkestra-core[langfuse]" turns them on'
    table = Table.grid(padding=(0, 2))
    table.add_row("Temporal", Text(stage.server.address))
    table.add_row("Temporal UI", Text(stage.server.ui_url or ""))
    worker = f"orkestra {' '.join(stage.worker.arguments)} (process {stage.worker.pid})"
    table.add_row("worker", Text(worker))
    table.add_row("traces", Text(traces))
    console.print()
    console.print(_indented(table))
    console.print()


def print_tallies(console: Console, tallies: Mapping[str, Tally]) -> None:
    """Print a row for each tenant, and one for all."""
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
        "completed: answered by the assistant or a human, or closed by the customer",
        "escalated: not answered in time, so a timer escalated the ticket",
        "failed: the customer is unknown, which the desk reports as a business error",
    )
    console.print()
    for line in lines:
        console.print(_indented(Text(line, "dim")))


def _rows(tallies: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
    """Yield the busiest tenants by name, and one row for all others."""
    by_tickets = sorted(tallies, key=lambda tenant: (-tallies[tenant].started, tenant))
    for tenant in sorted(by_tickets[:_MOST_TENANT_ROWS]):
        yield tenant, tallies[tenant]
    if others := by_tickets[_MOST_TENANT_ROWS:]:
        yield f"{len(others)} others", sum((tallies[each] for each in others), start=Tally())


def _cells(tally: Tally) -> list[str]:
    counts = (tally.started, tally.completed, tally.escalated, tally.failed)
    times = (tally.percentile(0.5), tally.percentile(0.95))
    return [*map(str, counts), *("-" if time is None else f"{time:.2f} s" for time in times)]


def print_attacks(console: Console, attacks: Sequence[Attack]) -> None:
    """Print each call that must be refused, its error, and the proof that it had no effect."""
    _heading(console, "Three calls that must be refused")
    for number, attack in enumerate(attacks, start=1):
        outcome = Text("refused", "green") if attack.refused else Text("NOT REFUSED", "bold red")
        console.print(Text(f"{number}. {attack.call}: ") + outcome)
        for text, style in ((attack.error, "yellow"), (attack.proof, "dim")):
            if text:
                console.print(_indented(Text(text, style)))


def print_trace(console: Console, stage: DemoStage, trace_id: str, trace: DemoTrace | None) -> None:
    """Print the trace of one ticket as a tree."""
    _heading(console, "One ticket, one trace")
    if trace is None:
        url = f"{stage.langfuse.base_url}/trace/{trace_id}"
        console.print(Text(f"See {url}" if stage.langfuse.is_on else "No trace: tracing is off"))
        return
    console.print(Text(f"The attacked ticket from start to end: trace {trace_id}"))
    for root in trace.roots:
        console.print(_indented(_tree(root)))


def _tree(root: "TraceTree") -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for tree, branch, _ in tree_rows(root):
        style = _STYLES.get(tree.span.level, "")
        table.add_row(
            Text(branch, "dim").append(tree.span.name, style or "default"),
            format_duration(tree.duration),
            Text(_bar(tree, root), style or "cyan"),
            Text(note_on(tree), style or "dim"),
        )
    return table


def _bar(tree: "TraceTree", root: "TraceTree") -> str:
    """Draw the time of a span within the whole trace."""
    begin, whole = root.span.start_ns, max(root.span.end_ns - root.span.start_ns, 1)
    first = min(round((tree.span.start_ns - begin) / whole * _BAR_COLUMNS), _BAR_COLUMNS - 1)
    length = max(round((tree.span.end_ns - tree.span.start_ns) / whole * _BAR_COLUMNS), 1)
    return (" " * first + "━" * length)[:_BAR_COLUMNS].ljust(_BAR_COLUMNS)


def print_summary(console: Console, findings: Findings) -> None:
    """Print whether all results are as expected."""
    console.print()
    for problem in findings.problems:
        console.print(Text(f"Problem: {problem}", "bold red"))
    if not findings.problems:
        tickets, tenants = findings.total.started, len(findings.tallies)
        refused = sum(each.refused for each in findings.attacks)
        console.print(
            Text(
                f"All as expected: {tickets} tickets of {tenants} tenants ended and"
                f" {refused} forbidden calls were refused in {findings.seconds:.0f} s.",
                "green",
            )
        )


def print_next_steps(console: Console, stage: DemoStage, options: DemoOptions) -> None:
    """Print where to look next."""
    if options.keep:
        places = [url for url in (stage.server.ui_url, stage.page and stage.page.url) if url]
        console.print(Text(f"Running until Ctrl-C: see {' and '.join(places)}"))
    else:
        console.print(Text("To explore the UI and the traces: orkestra demo --keep"))
    console.print(Text(f"Source code of the desk: {options.desk}"))


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, _INDENT_COLUMNS), expand=False)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, "bold"))
