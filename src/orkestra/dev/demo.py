"""`orkestra demo`: find the support desk of the examples, and show it.

The desk is beside the package in a wheel, and in `examples` in a checkout. The modules that show it
import it, so they are imported only when it has been found.
"""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer

import orkestra
from orkestra.cli.app import FAILED
from orkestra.cli.options import AsJson, load_config
from orkestra.errors import ConfigurationError
from orkestra.langfuse.langfuse_sink import require_langfuse


def demo(
    context: typer.Context,
    *,
    tickets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tickets, one JSON object per line.  [default: 60 that come with the demo]",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep server, worker and UI running until Ctrl-C.")
    ] = False,
    workers_log: Annotated[
        bool, typer.Option("--workers-log", help="Also show the log of the worker.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Run a support desk for three tenants on a real Temporal server.

    Starts a Temporal server and a worker for the demo, processes a file of support tickets, makes
    three calls that must be refused, and shows the trace of one ticket. Traces go to Langfuse if
    LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are set; otherwise they stay on this machine. Exits
    with 1 if anything went wrong.

    Examples:
      orkestra demo
      orkestra demo --keep
      orkestra demo --tickets my-tickets.jsonl --json
    """
    langfuse = load_config(context).langfuse
    if langfuse.is_on:
        require_langfuse()
    desk = _find_desk()
    sys.path.insert(0, str(desk.parent))
    from orkestra.dev.demo_report import show  # noqa: PLC0415 - it imports the desk
    from orkestra.dev.demo_stage import DemoOptions  # noqa: PLC0415 - it imports the desk

    options = DemoOptions(
        langfuse=langfuse,
        tickets=tickets or desk / "tickets.jsonl",
        desk=desk,
        keep=keep,
        workers_log=workers_log,
        as_json=as_json,
    )
    return 0 if asyncio.run(_until_signal(show(options))) else FAILED


def _find_desk() -> Path:
    package = Path(orkestra.__file__).resolve().parent
    for folder in (package / "examples", package.parent.parent / "examples"):
        if (folder / "support_desk" / "__init__.py").is_file():
            return folder / "support_desk"
    msg = "the example 'support_desk' is not installed with orkestra: reinstall orkestra-core"
    raise ConfigurationError(msg)


async def _until_signal(running: Coroutine[None, None, bool]) -> bool:
    """Run to the end, or until SIGTERM, which unwinds as Ctrl-C does."""
    task = asyncio.ensure_future(running)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
