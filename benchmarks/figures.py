"""Figures from samples: ratios to the bare SDK in the same round."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.variants import BARE, VARIANTS

Results = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


COUNTED = "worker_instructions"
ORDER = list(VARIANTS)


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the ratios of all rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: Sequence[float], bare: Sequence[float]) -> Ratio | None:
    """Return the ratio of two variants in the same rounds, or None without samples."""
    pairs = sorted(one / other for one, other in zip(ours, bare, strict=False) if other)
    if not pairs:
        return None
    quarter = len(pairs) // 4
    return Ratio(median(pairs), pairs[quarter], pairs[-1 - quarter])


@dataclass(frozen=True, kw_only=True)
class Row:
    """Cost of a variant in a scenario."""

    scenario: str
    variant: str
    worker: Ratio | None
    worker_ms: float | None
    instructions: Ratio | None
    instructions_m: float | None
    client: Ratio | None
    client_ms: float | None
    history: float | None
    growth: float | None


def rows(results: Results) -> Iterator[Row]:
    """Return the rows of the compared scenarios."""
    for scenario, variants in results.items():
        bare = variants.get(BARE, {})
        if not _is_compared(bare):
            continue
        for variant, own in sorted(variants.items(), key=lambda item: ORDER.index(item[0])):
            history = _median(own.get("history_bytes"))
            of_bare = _median(bare.get("history_bytes"))
            yield Row(
                scenario=scenario,
                variant=variant,
                worker=ratio(own.get("worker_ms", ()), bare.get("worker_ms", ())),
                worker_ms=_median(own.get("worker_ms")),
                instructions=ratio(own.get(COUNTED, ()), bare.get(COUNTED, ())),
                instructions_m=_median(own.get(COUNTED)),
                client=ratio(own.get("client_ms", ()), bare.get("client_ms", ())),
                client_ms=_median(own.get("client_ms")),
                history=history,
                growth=None if history is None or of_bare is None else history - of_bare,
            )


def others(results: Results) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Return the medians of the other samples, by scenario and variant."""
    for scenario, variants in results.items():
        if not _is_compared(variants.get(BARE, {})):
            for variant, figures in variants.items():
                yield scenario, variant, {name: median(each) for name, each in figures.items()}


def _is_compared(figures: Mapping[str, Sequence[float]]) -> bool:
    return "worker_ms" in figures or COUNTED in figures


def _median(values: Sequence[float] | None) -> float | None:
    return median(values) if values else None


def duration(milliseconds: float) -> str:
    """Format a time in the unit that suits it."""
    return f"{milliseconds:.1f} ms" if milliseconds >= 1 else f"{1000 * milliseconds:.0f} µs"


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of the measurement."""
    import os  # noqa: PLC0415 - for the report alone
    import platform  # noqa: PLC0415 - likewise
    from importlib.metadata import version  # noqa: PLC0415 - likewise

    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "temporalio": version("temporalio"),
        "langfuse": version("langfuse"),
    }
