"""What the demo found, and whether it is what it should be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orkestra.cli.demo.refusals import Refusal
from orkestra.cli.demo.stage import Stage
from orkestra.cli.demo.traces import Trace
from orkestra.cli.demo.traffic import Tally


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
