"""Rounds of measurements: variants alternate, so that drift of the machine's speed affects all."""

import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.helpers import Team, helper, once, team
from benchmarks.samples import Samples, no_samples
from benchmarks.scenarios import RACE, SCENARIOS
from benchmarks.variants import BARE
from orkestra.devserver import DevServer

UNHURRIED = {"history.workflowIdReuseMinimalInterval": "0s"}
"""The server delays a chain of short runs."""

PARKED = 300
ORKESTRAS = ("tenancy", "tenancy + tracing")


class Measurement:
    """One run of the benchmark.

    Args:
        teams: The processes by variant.
        console: Where progress is shown.
    """

    def __init__(self, teams: Mapping[str, Team], console: Console) -> None:
        self.samples = no_samples()
        self._teams = teams
        self._console = console
        self._since = time.monotonic()

    def turn(self, number: int) -> list[tuple[str, Team]]:
        """Return the variants in the order of a round, each time with another one first."""
        items = list(self._teams.items())
        first = number % len(items)
        return [*items[first:], *items[:first]]

    def _done(self, scenario: str) -> None:
        now = time.monotonic()
        self._console.print(f"  {scenario}: {now - self._since:.0f} s", style="dim")
        self._since = now

    def note(self, scenario: str, variant: str, **figures: float) -> None:
        for figure, value in figures.items():
            self.samples[scenario][variant][figure].append(value)

    async def scenario(self, name: str, rounds: int, scale: float) -> None:
        """Measure the CPU of worker and client per unit, and the size of the history."""
        count = max(1, round(SCENARIOS[name].count * scale))
        for number in range(rounds + 1):
            for variant, each in self.turn(number):
                before = await each.worker.ask("used")
                ran = await each.client.ask("run", scenario=name, count=count)
                after = await each.worker.ask("used")
                if number:  # the first round warms up
                    self.note(
                        name,
                        variant,
                        worker_ms=(after - before) / count * 1000,
                        client_ms=ran["cpu"] / count * 1000,
                        history_bytes=ran["history"],
                    )
        self._done(name)

    async def replay(self, rounds: int) -> None:
        """Measure the CPU of replaying the same long history."""
        author = next((v for v in self._teams if v in ORKESTRAS), BARE)
        with tempfile.TemporaryDirectory() as directory:
            file = str(Path(directory) / "history.json")
            await self._teams[author].client.ask("history", file=file)
            for number in range(rounds + 1):
                for variant, each in self.turn(number):
                    ran = await each.worker.ask("replay", file=file)
                    if number:
                        self.note(
                            "replay", variant, worker_ms=ran["cpu"] * 1000, events=ran["events"]
                        )
        self._done("replay")

    async def cached(self, address: str) -> None:
        """Measure the memory of a cached workflow."""
        for variant in self._teams:
            async with AsyncExitStack() as stack:
                each = await team(stack, variant, address)
                await each.client.ask("run", scenario="queries", count=PARKED)
                before = await each.worker.ask("held")
                await each.client.ask("park", count=PARKED)
                after = await each.worker.ask("held")
                self.note("cached workflow", variant, bytes=(after - before) / PARKED)
                await each.client.ask("park", count=0)
        self._done("cached workflow")

    async def tenants(self, count: int, address: str) -> None:
        """Measure the CPU and memory of a client for each of many tenants."""
        for variant, each in self._teams.items():
            made = await each.client.ask("tenants", count=count, address=address)
            self.note(
                "tenant client",
                variant,
                cpu_us=made["cpu"] * 1e6,
                cpu_us_of_all=made["cpu_of_all"] * 1e6,
                bytes=made["memory"],
            )
        self._done("tenant client")

    async def race(self) -> None:
        """Count the spans when a signal races the completion."""
        for variant, each in self._teams.items():
            if each.receiver is not None:
                await each.worker.ask("used")
                await each.receiver.ask("clear")
                await each.client.ask("run", scenario="race", count=RACE.count)
                await each.worker.ask("used")
                self.note("race", variant, **await each.receiver.ask("count"))
        self._done("race")

    async def startup(self, rounds: int, address: str) -> None:
        """Measure the start of a new process."""
        for number in range(rounds):
            for variant, each in self.turn(number):
                if variant in (BARE, *ORKESTRAS):
                    command = ("benchmarks.startup", variant, address)
                    took = await once(*command, environment=each.environment)
                    milliseconds = {f"{stage}_ms": 1000 * s for stage, s in took.items()}
                    self.note("startup", variant, **milliseconds)
        self._done("startup")


async def measure(
    variants: Collection[str],
    scenarios: Collection[str],
    *,
    rounds: int,
    scale: float,
    tenants: int,
    console: Console,
) -> Samples:
    """Measure each variant in its own processes.

    Args:
        variants: Names of variants; the bare SDK is always there to compare with.
        scenarios: Names of scenarios, or of the other figures.
        rounds: How many turns each variant gets.
        scale: How much a turn does, beside the usual.
        tenants: How many tenants have a client each.
        console: Where progress is shown.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(DevServer(ui=False, dynamic_config=UNHURRIED))
        teams = {v: await team(stack, v, server.address) for v in dict.fromkeys((BARE, *variants))}
        made = Measurement(teams, console)
        for name in scenarios:
            if name in SCENARIOS:
                await made.scenario(name, rounds, scale)
        if "replay" in scenarios:
            await made.replay(rounds)
        if "cached workflow" in scenarios:
            await made.cached(server.address)
        if "tenant client" in scenarios:
            await made.tenants(tenants, server.address)
        if "race" in scenarios:
            await made.race()
        if "startup" in scenarios:
            await made.startup(rounds, server.address)
        if "calls" in scenarios:
            calls = await stack.enter_async_context(helper("benchmarks.calls", environment={}))
            for name, figures in (await calls.read()).items():
                for figure, values in figures.items():
                    made.samples["calls"][name][figure] = values
        if "weights" in scenarios:
            weights = await stack.enter_async_context(helper("benchmarks.weights", environment={}))
            made.samples["weights"]["tenancy"].update(await weights.read())
    return made.samples
