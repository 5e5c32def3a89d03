"""Writer of the figures of the benchmarks page, from the results beside this module.

make bench OPTIONS="--all --rounds 9 --scale 0.5 --json benchmarks/results/cpu.json"
make bench OPTIONS="--all --no-cpu --instructions --json benchmarks/results/instructions.json"
python -m benchmarks.growth --json benchmarks/results/growth.json
python -m benchmarks.page
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import growth_plot, plot
from benchmarks.figures import COUNTED, Results, ratio
from benchmarks.report import activity_bytes, markdown
from benchmarks.variants import BARE

RESULTS: Final = Path(__file__).parent / "results"
DOCS: Final = Path(__file__).parents[1] / "docs"
BEGIN: Final = "<!-- figures: written by `python -m benchmarks.page` -->"
END: Final = "<!-- end of the figures -->"

TENANCY, TRACING, OPENTELEMETRY = "tenancy", "tenancy + tracing", "SDK OpenTelemetryPlugin"
ONE, MODELS = "one activity", "one activity, models"
CPU: Final = "worker_ms"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Target: the upper limit of a figure.

    Attributes:
        what: Name of the figure.
        most: Upper limit.
        found: Measured figure; None if it was not measured.
        spread: Quartiles of the rounds, if there are any.
    """

    what: str
    most: float
    found: float | None
    spread: str = ""

    def __str__(self) -> str:
        found = "not measured" if self.found is None else _number(self.found) + self.spread
        is_met = self.found is not None and self.found <= self.most
        return f"| {self.what} | {_number(self.most)} | {found} | {'yes' if is_met else 'no'} |"


RATIOS: Final = (
    ("tenancy", ONE, TENANCY, BARE, 1.05),
    ("tenancy", MODELS, TENANCY, BARE, 1.0),
    ("tenancy + tracing", ONE, TRACING, BARE, 1.1),
    ("tenancy + tracing beside OpenTelemetryPlugin", ONE, TRACING, OPENTELEMETRY, 0.9),
    ("tenancy + tracing", "replay", TRACING, BARE, 1.05),
)
"""Pairs of variants, with the upper limit of their ratio."""


def aims(results: Results) -> Iterator[Aim]:
    """Compare the cost of Orkestra with the targets."""
    for name, scenario, ours, theirs, most in RATIOS:
        variants = results.get(scenario, {})
        is_counted = any(COUNTED in own for own in variants.values())
        for figure, unit in ((CPU, "CPU"), (COUNTED, "instructions"))[: 1 + is_counted]:
            what = f"{unit} of the worker, {scenario}: {name}"
            yield _compared(what, variants, (figure, ours, theirs), most)
    started = results.get("startup", {}).get(TENANCY, {})
    of_sdk = {"with": {"ms": started.get("import_ms", ())}}
    of_sdk["without"] = {"ms": started.get("import of the SDK_ms", ())}
    yield _compared("CPU of `import orkestra`", of_sdk, ("ms", "with", "without"), 1.1)
    yield from _weights(results)
    for variant in (TENANCY, TRACING):
        made = results.get("tenant client", {}).get(variant, {})
        what = f"client of a tenant, {variant}"
        yield Aim(what=f"{what}: µs, no garbage collected", most=20, found=_median(made, "cpu_us"))
        yield Aim(what=f"{what}: bytes", most=5000, found=_median(made, "bytes"))
    calls = results.get("calls", {})
    guard = _median(calls.get("signal", {}), "guard")
    yield Aim(what="guard of a call: µs", most=15, found=guard)
    query = _median(calls.get("list query, six terms", {}), "ours")
    yield Aim(what="rewriting a list query of six terms: µs", most=50, found=query)


def _weights(results: Results) -> Iterator[Aim]:
    activity = activity_bytes(results)
    first = {
        variant: median(own["history_bytes"]) - activity[variant]
        for variant, own in results.get(ONE, {}).items()
        if variant in activity and "history_bytes" in own
    }
    for variant, beside, most in ((TENANCY, BARE, (130, 50)), (TRACING, TENANCY, (90, 90))):
        for what, sizes, limit in zip(("start", "activity"), (first, activity), most, strict=True):
            found = sizes[variant] - sizes[beside] if {variant, beside} <= set(sizes) else None
            name = f"{variant}, history of {what}, beside {beside}: bytes"
            yield Aim(what=name, most=limit, found=found)


def _compared(
    what: str,
    variants: Mapping[str, Mapping[str, Sequence[float]]],
    figure_ours_theirs: tuple[str, str, str],
    most: float,
) -> Aim:
    figure, ours, theirs = figure_ours_theirs
    found = ratio(*(variants.get(each, {}).get(figure, ()) for each in (ours, theirs)))
    if found is None:
        return Aim(what=what, most=most, found=None)
    spread = f" ({found.low:.2f} to {found.high:.2f})"
    return Aim(what=what, most=most, found=found.median, spread=spread)


def _median(figures: Mapping[str, Sequence[float]], name: str) -> float | None:
    return median(figures[name]) if figures.get(name) else None


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def merged(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the results of several measurements."""
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for each in measured:
        for scenario, variants in each["results"].items():
            for variant, figures in variants.items():
                results.setdefault(scenario, {}).setdefault(variant, {}).update(figures)
    return results


def figures(measured: Sequence[Mapping[str, Any]], growth: Mapping[str, Any]) -> str:
    """Return the generated part of the page."""
    results = merged(measured)
    lines = ["", *(_where(each) for each in (*measured, growth)), ""]
    lines += [
        "### Targets",
        "",
        "| | at most | measured | met |",
        "| --- | --: | --: | --- |",
    ]
    lines += [*map(str, aims(results)), ""]
    lines += ["![CPU of the worker beside the bare SDK](benchmarks.svg)", ""]
    lines += ["### Growth", ""]
    lines += ["![CPU as tenants, cached workflows and events grow](growth.svg)", ""]
    return "\n".join(lines) + markdown(results) + "\n"


def _where(measured: Mapping[str, Any]) -> str:
    on = measured["machine"]
    versions = ", ".join(f"{name} {on[name]}" for name in ("python", "temporalio", "langfuse"))
    return f"- `{measured['command']}`: {on['cores']} {on['machine']} cores, {versions}"


def kept_results() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Load the latest results and those of the growth."""
    names = ("cpu", "others", "instructions", "growth")
    *measured, growth = (json.loads((RESULTS / f"{name}.json").read_text()) for name in names)
    return measured, growth


def main() -> None:
    measured, growth = kept_results()
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + figures(measured, growth) + "\n" + END + after)
    (DOCS / "benchmarks.svg").write_text(plot.draw(merged(measured)))
    (DOCS / "growth.svg").write_text(growth_plot.draw(growth["results"]))


if __name__ == "__main__":
    main()
