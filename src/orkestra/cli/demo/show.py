"""The demo from its first line to its last. It imports the example, which must be importable."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from typing import Final

from rich.console import Console

from orkestra.cli.demo import report
from orkestra.cli.demo.findings import Findings
from orkestra.cli.demo.options import Options
from orkestra.cli.demo.progress import follow_log, show_progress, waiting
from orkestra.cli.demo.refusals import try_forbidden_calls
from orkestra.cli.demo.stage import Stage, open_stage
from orkestra.cli.demo.traces import Trace
from orkestra.cli.demo.traffic import Traffic
from orkestra.cli.output import write_json
from orkestra.errors import ConfigurationError
from support_desk.desk import TASK_QUEUE
from support_desk.tickets import TicketFileError, read_tickets

_WIDTH: Final = 100
"""Columns of what is not a terminal."""

_LOOK: Final = 0.5
_ARRIVAL: Final = 15.0
"""Seconds in which a running worker sends what it has recorded."""


async def show(options: Options) -> bool:
    """Show the demo; returns whether everything was as it should be.

    Args:
        options: What the demo was asked for.

    Raises:
        ConfigurationError: The file of tickets is malformed; nothing was started.
        OrkestraError: The demo could not be shown.
    """
    began = time.monotonic()
    count = _count_tickets(options)
    console = Console(stderr=options.as_json, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    report.print_opening(console)
    async with AsyncExitStack() as stack:
        with waiting(console, "Starting a Temporal server and a worker"):
            stage = await stack.enter_async_context(open_stage(options, task_queue=TASK_QUEUE))
        if options.workers_log:
            await stack.enter_async_context(follow_log(console, stage.worker))
        findings = await _perform(console, stage, options, count=count, began=began)
        report.print_verdict(console, findings)
        report.print_next(console, stage, options)
        if options.as_json:
            write_json(findings.as_json(stage))
        if options.keep:
            await _until_told(stage)
    return not findings.problems


def _count_tickets(options: Options) -> int:
    try:
        return sum(1 for _ in read_tickets(options.tickets))
    except TicketFileError as error:
        raise ConfigurationError(str(error)) from error


async def _perform(
    console: Console, stage: Stage, options: Options, *, count: int, began: float
) -> Findings:
    report.print_stage(console, stage)
    traffic = Traffic(stage)
    with show_progress(console, total=count) as on_end:
        await stage.watched(traffic.run(options.tickets, on_end=on_end))
    report.print_tallies(console, traffic.tallies)
    attacks = await stage.watched(try_forbidden_calls(stage))
    report.print_refusals(console, attacks.refusals)
    with waiting(console, "Waiting for the traces"):
        trace = await _receive(stage, attacks.trace_id, keep=options.keep)
    report.print_trace(console, stage, attacks.trace_id, trace)
    return Findings(traffic.tallies, attacks.refusals, trace, time.monotonic() - began)


async def _receive(stage: Stage, trace_id: str, *, keep: bool) -> Trace | None:
    """Wait for a trace: a worker that ends sends everything, one that goes on does so in time."""
    if not keep:
        await stage.worker.end()
    if stage.page is None:
        return None
    deadline = time.monotonic() + _ARRIVAL
    while True:
        trace = Trace(trace_id, stage.page.trace(trace_id))
        if trace.is_whole or not keep or time.monotonic() >= deadline:
            return trace
        await asyncio.sleep(_LOOK)


async def _until_told(stage: Stage) -> None:
    """Leave everything up until Ctrl-C or SIGTERM."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    while not told.is_set():
        stage.check()
        await asyncio.sleep(_LOOK)
