"""Results as tables: in the terminal and in Markdown."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Results, Row, others, rows

COLUMNS = (
    *("variant", "worker CPU", "(ms)", "instructions", "(millions)"),
    *("client CPU", "(ms)", "history"),
)


def show(results: Results, console: Console) -> None:
    """Print a table for each scenario."""
    for scenario, own in groupby(rows(results), key=lambda row: row.scenario):
        table = Table(title=scenario, title_justify="left")
        header, *told = _told(own)
        for column in header:
            is_name = column == "variant"
            table.add_column(column, justify="left" if is_name else "right", no_wrap=True)
        for cells in told:
            table.add_row(*cells)
        console.print(table)
    for line in _others(results):
        console.print(line, highlight=False)
    console.print(
        "CPU per unit compared with the bare SDK in the same round: median (quartiles)."
        " History in bytes.",
        style="dim",
    )


def markdown(results: Results) -> str:
    """Return the tables as Markdown."""
    lines: list[str] = []
    for scenario, own in groupby(rows(results), key=lambda row: row.scenario):
        header, *told = _told(own)
        lines += ["", f"### {scenario.capitalize()}", "", f"| {' | '.join(header)} |"]
        lines.append("| --- |" + " --: |" * (len(header) - 1))
        lines += [f"| {' | '.join(cells)} |" for cells in told]
    lines += ["", "### Other figures", "", *(f"- {line}" for line in _others(results))]
    return "\n".join(lines)


def _told(own: Iterable[Row]) -> list[tuple[str, ...]]:
    """Return the header and rows of a table, without empty columns."""
    columns = zip(COLUMNS, *map(_cells, own), strict=True)
    return list(zip(*(column for column in columns if any(column[1:])), strict=True))


def _cells(row: Row) -> tuple[str, ...]:
    growth = "" if not row.growth else f" ({row.growth:+,.0f})"
    return (
        row.variant,
        str(row.worker or ""),
        _plain(row.worker_ms),
        "" if row.instructions is None else f"{row.instructions.median:.2f}",
        _plain(row.instructions_m),
        str(row.client or ""),
        _plain(row.client_ms),
        "" if row.history is None else f"{row.history:,.0f}{growth}",
    )


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _others(results: Results) -> Iterator[str]:
    for scenario, variant, figures in others(results):
        said = ", ".join(f"{name.replace('_', ' ')} {_number(v)}" for name, v in figures.items())
        if scenario == "weights":
            said = ", ".join(
                f"{name}: {' : '.join(f'{share:.0%}' for share in shares)}"
                for name, shares in results[scenario][variant].items()
            )
        yield f"{scenario}, {variant}: {said}"
    activity = activity_bytes(results)
    if activity:
        said = ", ".join(f"{variant} {size:.0f}" for variant, size in activity.items())
        yield f"history bytes of one more activity: {said}"


def activity_bytes(results: Results) -> dict[str, float]:
    """Return the size that one more activity adds to a history, by variant."""
    one, ten = results.get("one activity", {}), results.get("ten activities in sequence", {})
    return {
        variant: (median(ten[variant]["history_bytes"]) - median(one[variant]["history_bytes"])) / 9
        for variant in one
        if variant in ten
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
