"""The page of the documentation that the matrix is written to."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.matrix.model import COLUMNS, Check, Row
from tests.matrix.table import EXEMPT, EXEMPT_RPCS, GROUPS, ROWS

PAGE: Final = Path(__file__).parents[2] / "docs/tenancy-matrix.md"

_HEADINGS: Final = {
    "carried": "Carried",
    "missing": "Missing is refused",
    "mismatch": "Mismatch is refused",
    "other": "Other tenant is refused",
    "replay": "Survives replay",
}

_INTRODUCTION: Final = """\
# The tenancy matrix

Every kind of call is tested on a real Temporal server in each run of the tests. Each cell runs for
two tenants at once, with the roles exchanged. **✓** marks a tested cell; a number marks a cell that
cannot exist, with the reason in the notes. `python -m tests.matrix` writes this page; tests fail
when it differs from the table that they run, or when the SDK adds a call, or the guard allows an
RPC, that no row covers.
"""


def page() -> str:
    """The page's text, made from the table."""
    notes = _Notes()
    parts = [_INTRODUCTION, *_columns()]
    for group, rows in GROUPS.items():
        parts += [f"## {group}", "", *_table(rows, notes), ""]
    parts += ["## Notes", "", *notes.lines(), "", "## What the cells show", "", *_details()]
    parts += ["", "## Calls without a row", "", *_exempt()]
    return "\n".join(parts) + "\n"


class _Notes:
    """Numbers the reasons in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, why: str) -> int:
        return self._numbers.setdefault(why, len(self._numbers) + 1)

    def lines(self) -> Iterator[str]:
        return (f"{number}. {why}" for why, number in self._numbers.items())


def _columns() -> Iterator[str]:
    for column, says in COLUMNS.items():
        yield f"- **{_HEADINGS[column]}**: {says}."
    yield ""


def _table(rows: Sequence[Row], notes: _Notes) -> Iterator[str]:
    yield "| Call | " + " | ".join(_HEADINGS.values()) + " |"
    yield "| --- " * (len(COLUMNS) + 1) + "|"
    for row in rows:
        cells = [_mark(row, column, notes) for column in COLUMNS]
        yield f"| {row.kind} | " + " | ".join(cells) + " |"


def _mark(row: Row, column: str, notes: _Notes) -> str:
    cell = row.cell(column)
    return "✓" if isinstance(cell, Check) else f"[{notes.number(cell.why)}](#notes)"


def _details() -> Iterator[str]:
    for row in ROWS:
        yield f"- **{row.kind}**"
        for column in COLUMNS:
            cell = row.cell(column)
            if isinstance(cell, Check) and column != "replay":
                yield f"    - {_HEADINGS[column].lower()}: {cell.shows}"


def _exempt() -> Iterator[str]:
    for names, why in (*EXEMPT.items(), *EXEMPT_RPCS.items()):
        listed = ", ".join(f"`{name}`" for name in names.split())
        yield f"- {listed}: {why}"
