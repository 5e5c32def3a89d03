"""What the demo says to people."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orkestra.cli.demo.app import APP
from orkestra.cli.demo.findings import Findings
from orkestra.cli.demo.options import Options
from orkestra.cli.demo.refusals import Refusal
from orkestra.cli.demo.stage import Stage
from orkestra.cli.demo.traces import Trace, branches, note_on
from orkestra.cli.demo.traffic import Tally

if TYPE_CHECKING:
    from orkestra.otlp import TraceTree

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
