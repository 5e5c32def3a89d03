"""Growth of the cost of Orkestra with tenants, cached workflows and events.

    python -m benchmarks.growth [--quick] [--json FILE] [--svg FILE]

Worker CPU of a workflow beside more and more tenants, and beside more and more workflows in the
worker's cache; CPU of replaying an event of longer and longer histories. As in `make bench`,
variants take turns, and each figure is the ratio of a round to the bare SDK's in the same round.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Results, duration, machine, ratio
from benchmarks.growth_plot import draw
from benchmarks.helpers import Team, team
from benchmarks.samples import Samples, no_samples, plain
from benchmarks.variants import BARE, QUICK
from orkestra.devserver import DevServer

Teams = Mapping[str, Team]

EVENTS: Final = {10: 1, 100: 16, 1_000: 166, 10_000: 1_666}
"""Number of consecutive activities for a history of about this number of events."""

MOST_REPLAYS: Final = 100
"""In a round, as what a run takes by itself is most of a short history's cost."""

AUTHOR: Final = "tenancy"
"""Variant whose histories every variant replays, the bare SDK too."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Amount of work to measure.

    Attributes:
        tenants: Numbers of tenants.
        cached: Numbers of workflows that wait in the worker's cache.
        events: Lengths of histories, of those in `EVENTS`.
        workflows: How many a round.
        replayed: How many events a round replays, where that is not too many histories.
        rounds: How many turns each variant gets.
    """

    tenants: Sequence[int] = (1, 10, 100, 1_000, 10_000)
    cached: Sequence[int] = (1, 10, 100, 1_000)
    events: Sequence[int] = tuple(EVENTS)
    workflows: int = 60
    replayed: int = 4_000
    rounds: int = 5


SHORT: Final = Plan(
    tenants=(1, 10, 100, 1_000),
    cached=(1, 10, 100),
    events=(10, 100, 1_000),
    workflows=20,
    replayed=1_000,
    rounds=3,
)


class Growth:
    """One run of the measurement; the samples are milliseconds of CPU by panel, variant and size.

    Args:
        plan: How much is measured.
        address: The server.
        console: Where progress is shown.
    """

    def __init__(self, plan: Plan, address: str, console: Console) -> None:
        self.samples: Samples = no_samples()
        self._plan = plan
        self._address = address
        self._console = console

    async def tenants(self) -> None:
        """Measure the worker CPU of a workflow of one activity, over this number of tenants."""
        async with self._teams() as teams:
            for size in self._plan.tenants:
                await self._at_each(teams, "grow", tenants=size)
                await self._workflows("tenants", size, teams, "spread")

    async def cached(self) -> None:
        """Measure the worker CPU of a workflow of one activity, beside cached workflows."""
        async with self._teams() as teams:
            for size in self._plan.cached:
                await self._at_each(teams, "park", count=size)
                await self._workflows("cached", size, teams, "run", scenario="one activity")

    async def events(self) -> None:
        """Measure the CPU of replaying one event."""
        async with self._teams() as teams:
            with tempfile.TemporaryDirectory() as directory:
                for size in self._plan.events:
                    file = str(Path(directory) / f"{size}.json")
                    await teams[AUTHOR].client.ask(
                        "history", file=file, rounds=EVENTS[size], parallel=1
                    )
                    times = min(MOST_REPLAYS, max(1, self._plan.replayed // size))
                    for number, variant, each in self._turns("events", size, teams):
                        ran = await each.worker.ask("replay", file=file, times=times)
                        self._note("events", variant, size, number, ran["cpu"] / ran["events"])

    async def _workflows(
        self, panel: str, size: int, teams: Teams, what: str, **arguments: Any
    ) -> None:
        count = self._plan.workflows
        for number, variant, each in self._turns(panel, size, teams):
            before = await each.worker.ask("used")
            await each.client.ask(what, count=count, **arguments)
            used = await each.worker.ask("used") - before
            self._note(panel, variant, size, number, used / count)

    @asynccontextmanager
    async def _teams(self) -> AsyncIterator[Teams]:
        """Start new processes for a panel, without state of another one."""
        async with AsyncExitStack() as stack:
            yield {variant: await team(stack, variant, self._address) for variant in QUICK}

    async def _at_each(self, teams: Teams, what: str, **arguments: Any) -> None:
        await asyncio.gather(*(each.client.ask(what, **arguments) for each in teams.values()))

    def _turns(self, panel: str, size: int, teams: Teams) -> Sequence[tuple[int, str, Team]]:
        """Run the rounds, each with another variant first; the first round warms up."""
        self._console.print(f"  {panel}, {size:,}: {time.strftime('%X')}", style="dim")
        items = list(teams.items())
        return [
            (number, *items[(number + place) % len(items)])
            for number in range(self._plan.rounds + 1)
            for place in range(len(items))
        ]

    def _note(self, panel: str, variant: str, size: int, number: int, seconds: float) -> None:
        if number:
            self.samples[panel][variant][str(size)].append(seconds * 1000)


async def measure(plan: Plan, console: Console) -> Samples:
    """Measure all three panels.

    Args:
        plan: How much is measured.
        console: Where progress is shown.
    """
    async with DevServer(ui=False) as server:
        growth = Growth(plan, server.address, console)
        await growth.tenants()
        await growth.cached()
        await growth.events()
    return {p: {v: own[v] for v in QUICK} for p, own in growth.samples.items()}


TITLES: Final = {
    "tenants": "CPU of a workflow of one activity, by tenants",
    "cached": "CPU of a workflow of one activity, by other workflows in the cache",
    "events": "CPU of replaying an event, by events of the history",
}


def show(results: Results, console: Console) -> None:
    """Print a table for each panel."""
    for panel, variants in results.items():
        others = [variant for variant in variants if variant != BARE]
        table = Table(title=TITLES[panel], title_justify="left")
        for column in (panel, BARE, *(name for each in others for name in (each, "CPU"))):
            table.add_column(column, justify="right")
        for size, bare in variants[BARE].items():
            cells = [f"{int(size):,}", duration(median(bare))]
            for own in (variants[other][size] for other in others):
                cells += [str(ratio(own, bare) or ""), duration(median(own))]
            table.add_row(*cells)
        console.print(table)
    console.print(
        "Ratio to the bare SDK in the same round: median (quartiles). CPU: medians.", style="dim"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="measure less, in two minutes")
    parser.add_argument("--rounds", type=int, help="number of rounds")
    parser.add_argument("--json", type=Path, help="file to write the samples to")
    parser.add_argument("--svg", type=Path, help="file to draw the results to")
    parser.add_argument(
        "--from", type=Path, dest="source", help="file of samples to show instead of measuring"
    )
    return parser.parse_args()


def _measured(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    if options.source:
        loaded: dict[str, Any] = json.loads(options.source.read_text())
        return loaded
    plan = SHORT if options.quick else Plan()
    if options.rounds is not None:
        plan = replace(plan, rounds=options.rounds)
    return {
        "machine": machine(),
        "command": " ".join(["python", "-m", "benchmarks.growth", *sys.argv[1:]]),
        "rounds": plan.rounds,
        "unit": "milliseconds of CPU",
        "results": plain(asyncio.run(measure(plan, console))),
    }


def main() -> None:
    options = _options()
    console = Console(width=max(110, Console().width))
    measured = _measured(options, console)
    show(measured["results"], console)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))
    if options.svg:
        options.svg.write_text(draw(measured["results"]))


if __name__ == "__main__":
    main()
