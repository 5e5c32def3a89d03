"""The command: options in, exit code out."""

import asyncio
import importlib
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from orkestra.cli.demo.app import TICKETS, examples_directory, make_importable
from orkestra.cli.demo.options import Options
from orkestra.cli.failures import FAILED
from orkestra.cli.options import AsJson, load_config


def demo(
    context: typer.Context,
    *,
    tickets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tickets, one JSON object a line.  [default: 60 of ours]",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave server, worker and UI up until Ctrl-C.")
    ] = False,
    workers_log: Annotated[
        bool, typer.Option("--workers-log", help="Show the worker's log, too.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Watch the workflows of three tenants run on a real Temporal server.

    Starts a Temporal server and a worker just for this, works off a file of support tickets, tries
    three calls that must not work, and draws one ticket's trace. Traces go to Langfuse where
    LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are set, and nowhere else. Exits with 1 if anything
    is not as it should be.

    Examples:
      orkestra demo
      orkestra demo --keep
      orkestra demo --tickets my-tickets.jsonl --json
    """
    examples = examples_directory()
    make_importable(examples)
    # It imports the example, which can be found only now.
    show: Callable[[Options], Coroutine[Any, Any, bool]]
    show = importlib.import_module("orkestra.cli.demo.show").show
    options = Options(
        langfuse=load_config(context, None).langfuse,
        tickets=tickets or examples / TICKETS,
        examples=examples,
        keep=keep,
        workers_log=workers_log,
        as_json=as_json,
    )
    return 0 if asyncio.run(_until_signal(show(options))) else FAILED


async def _until_signal(running: Coroutine[Any, Any, bool]) -> bool:
    """Run to the end, or until SIGTERM, which unwinds as Ctrl-C does."""
    task = asyncio.ensure_future(running)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
