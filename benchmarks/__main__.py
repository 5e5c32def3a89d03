"""`make bench`: the cost of Orkestra compared with the bare Temporal SDK.

Each variant has a worker and a client in their own processes. The variants alternate, so that a
drift of the machine's speed affects all of them, and each figure is the ratio of a round to the
bare SDK in the same round. Figures are CPU time, not elapsed time.
"""

import argparse
import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.figures import machine
from benchmarks.instructions import Callgrind, count_instructions
from benchmarks.measuring import measure
from benchmarks.plot import draw
from benchmarks.report import markdown, show
from benchmarks.samples import no_samples, plain
from benchmarks.scenarios import SCENARIOS
from benchmarks.variants import BARE, QUICK, VARIANTS

OTHERS = ("replay", "cached workflow", "tenant client", "race", "startup", "calls", "weights")
QUICK_SCENARIOS = (
    *(name for name, each in SCENARIOS.items() if each.is_quick),
    "tenant client",
    "startup",
    "calls",
    "weights",
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    everything = (*SCENARIOS, *OTHERS)
    parser.add_argument("--all", action="store_true", help="every variant and scenario")
    parser.add_argument("--variant", action="append", choices=VARIANTS, metavar="NAME")
    parser.add_argument("--scenario", action="append", choices=everything, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list variants and scenarios")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the work of a round")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument(
        "--instructions", action="store_true", help="also count instructions; needs valgrind"
    )
    parser.add_argument("--no-cpu", action="store_true", help="skip the measurement of CPU")
    parser.add_argument("--json", type=Path, help="file to write the samples to")
    parser.add_argument("--svg", type=Path, help="file to draw the CPU of the workers to")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    parser.add_argument(
        "--from", type=Path, dest="source", help="file of samples to show instead of measuring"
    )
    options = parser.parse_args()
    if options.instructions and not Callgrind.is_here():
        parser.error("--instructions takes valgrind: install it, or leave the option out")
    return options


def _measured(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    if options.source:
        written: dict[str, Any] = json.loads(options.source.read_text())
        return written
    variants = options.variant or (list(VARIANTS) if options.all else QUICK)
    scenarios = options.scenario or ((*SCENARIOS, *OTHERS) if options.all else QUICK_SCENARIOS)
    samples = no_samples()
    if not options.no_cpu:
        samples = asyncio.run(
            measure(
                variants,
                scenarios,
                rounds=options.rounds,
                scale=options.scale,
                tenants=options.tenants,
                console=console,
            )
        )
    if options.instructions:
        variants = dict.fromkeys((BARE, *variants))
        asyncio.run(count_instructions(samples, list(variants), scenarios, console))
    return {
        "machine": machine(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "rounds": options.rounds,
        "results": plain(samples),
    }


def main() -> None:
    options = _options()
    console = Console(width=max(120, Console().width))
    if options.list:
        console.print("variants: " + "; ".join(VARIANTS))
        console.print("scenarios: " + "; ".join((*SCENARIOS, *OTHERS)))
        return
    measured = _measured(options, console)
    results = measured["results"]
    show(results, console)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))
    if options.svg:
        options.svg.write_text(draw(results))
    if options.markdown:
        options.markdown.write_text(markdown(results))


if __name__ == "__main__":
    main()
