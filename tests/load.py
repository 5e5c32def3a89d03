"""Load beside the tests: `python -m tests.load [OPTIONS] [COMMAND ...]`.

One process a core computes for a share of the time, at a low priority, until the command has run as
often as asked, or failed; without a command, until the time is up.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence

PERIOD_SECONDS = 0.1


def compute(share: float, *, nice: int, until: float, owner: int) -> None:
    """Keep a core busy for a share of the time, no longer than its owner lives."""
    os.nice(nice)
    while time.monotonic() < until and os.getppid() == owner:
        began = time.monotonic()
        while time.monotonic() - began < share * PERIOD_SECONDS:
            sum(range(1000))
        time.sleep((1 - share) * PERIOD_SECONDS)


def run(command: Sequence[str], times: int) -> int:
    """Run a command until it fails, and so many times at most; returns its exit code."""
    for number in range(1, times + 1):
        began = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        took = time.monotonic() - began
        print(f"Run {number} of {times}: exit code {code} after {took:.0f} s", flush=True)
        if code:
            return code
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--share", type=float, default=0.5, help="of the time; default: 0.5")
    parser.add_argument("--nice", type=int, default=10, help="default: 10")
    parser.add_argument("--seconds", type=float, default=3 * 3600, help="default: three hours")
    parser.add_argument("--runs", type=int, default=1, help="of the command; default: 1")
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    asked = parser.parse_args()
    until = time.monotonic() + asked.seconds
    options = {"nice": asked.nice, "until": until, "owner": os.getpid()}
    # Not forked: a forked child would take this program's handling of signals along.
    context = multiprocessing.get_context("spawn")
    load = [
        context.Process(target=compute, args=(asked.share,), kwargs=options)
        for _ in range(asked.processes)
    ]
    for each in load:
        each.start()
    try:
        if asked.command:
            return run(asked.command, asked.runs)
        time.sleep(asked.seconds)
    except KeyboardInterrupt:
        return 130
    finally:
        for each in load:
            each.terminate()
            each.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
