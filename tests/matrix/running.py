"""Running cells: all of some rows at once, each for two tenants with the roles exchanged."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest
from temporalio.client import Client

from tests.matrix.model import COLUMNS, Check, Row
from tests.matrix.side import Side
from tests.matrix.stage import set_up
from tests.support.waiting import PATIENCE

_CONCURRENT = 48

Key = tuple[str, str]
"""A row's kind and a column."""

Outcomes = Mapping[Key, Sequence[BaseException | None]]
"""Errors of each cell, or None, for each of the two tenants."""


def cells(rows: Sequence[Row]) -> list[pytest.param]:
    """The cells of some rows that can be shown."""
    return [
        pytest.param((row.kind, column), id=f"{row.kind} - {column}")
        for row in rows
        for column in COLUMNS
        if isinstance(row.cell(column), Check)
    ]


def wanted(request: pytest.FixtureRequest) -> set[Key]:
    """The cells that the run was asked for."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    return {params["cell"] for params in asked if "cell" in params}


async def run_cells(raw: Client, rows: Sequence[Row], asked: Collection[Key]) -> Outcomes:
    """Run the cells of some rows that were asked for."""
    gate = asyncio.Semaphore(_CONCURRENT)

    async def run(check: Check, side: Side) -> None:
        async with gate, asyncio.timeout(2 * PATIENCE):
            await check.run(side)

    async with set_up(raw) as stage:
        running = {}
        for row in rows:
            for column in COLUMNS:
                cell = row.cell(column)
                if isinstance(cell, Check) and (row.kind, column) in asked:
                    sides = stage.sides("replayed" if column == "replay" else "cached")
                    both = (run(cell, side) for side in sides)
                    running[row.kind, column] = asyncio.gather(*both, return_exceptions=True)
        return {key: await made for key, made in running.items()}


def raise_first(outcomes: Sequence[BaseException | None]) -> None:
    """Raise the first error, if any."""
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
