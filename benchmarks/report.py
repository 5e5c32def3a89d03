"""Results as tables: in the terminal and in Markdown."""

from collections.abc import Iterator
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Results, Row, others, rows

COLUMNS = (
    *("variant", "worker CPU", "(ms)", "worker instructions", "(millions)"),
    *("client CPU", "(ms)", "history"),
)


def show(results: Results, console: Console) -> None:
    """Print a table for each scenario."""
    by_scenario: dict[str, list[Row]] = {}
    for row in rows(results):
        by_scenario.setdefault(row.scenario, []).append(row)
    for scenario, own in by_scenario.items():
        table = Table(title=scenario, title_justify="left")
        for column in COLUMNS:
            is_name = column == "variant"
            table.add_column(column, justify="left" if is_name else "right", no_wrap=True)
        for row in own:
            table.add_row(*_cells(row))
        console.print(table)
    for line in _others(results):
        console.print(line, highlight=False)
    console.print(
        "CPU of a unit beside the bare SDK's in the same round: median (quartiles)."
        " History in bytes.",
        style="dim",
    )


def markdown(results: Results) -> str:
    """The same for the documentation."""
    lines: list[str] = []
    scenario = None
    for row in rows(results):
        if row.scenario != scenario:
            scenario = row.scenario
            lines += ["", f"### {scenario.capitalize()}", "", f"| {' | '.join(COLUMNS)} |"]
            lines.append("| --- |" + " --: |" * (len(COLUMNS) - 1))
        lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in _others(results))])


def _cells(row: Row) -> tuple[str, ...]:
    growth = "" if not row.growth else f" ({row.growth:+.0f})"
    return (
        row.variant,
        str(row.worker or ""),
        _plain(row.worker_ms),
        "" if row.instructions is None else f"{row.instructions.median:.2f}",
        _plain(row.instructions_m),
        str(row.client or ""),
        _plain(row.client_ms),
        "" if row.history is None else f"{row.history:.0f}{growth}",
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
    """What one activity more adds to a history, by variant."""
    one, ten = results.get("one activity", {}), results.get("ten activities in sequence", {})
    return {
        variant: (median(ten[variant]["history_bytes"]) - median(one[variant]["history_bytes"])) / 9
        for variant in one
        if variant in ten
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
