"""The command: options in, exit code out.

Where the support desk is: beside the package in a wheel, in `examples` in a checkout.

What the demo was asked for.
"""

import asyncio
import importlib
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import orkestra
from orkestra.cli.app import FAILED
from orkestra.cli.options import AsJson, load_config
from orkestra.config import LangfuseSettings
from orkestra.errors import ConfigurationError
from orkestra.langfuse.langfuse_sink import require_langfuse


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
    langfuse = load_config(context, None).langfuse
    if langfuse.is_on:
        require_langfuse()
    examples = examples_directory()
    make_importable(examples)
    # It imports the example, which can be found only now.
    show: Callable[[Options], Coroutine[Any, Any, bool]]
    show = importlib.import_module("orkestra.dev.demo_report").show
    options = Options(
        langfuse=langfuse,
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


APP: Final = "support_desk"
"""The example's package, top-level wherever it lies."""

TICKETS: Final = Path(APP, "tickets.jsonl")
"""The tickets that come with it."""


def examples_directory() -> Path:
    """The folder that holds the example.

    Raises:
        ConfigurationError: It is not there.
    """
    package = Path(orkestra.__file__).resolve().parent
    for folder in (package / "examples", package.parent.parent / "examples"):
        if (folder / APP / "__init__.py").is_file():
            return folder
    msg = f"the example {APP!r} is not installed with orkestra: reinstall orkestra-core"
    raise ConfigurationError(msg)


def make_importable(folder: Path) -> None:
    """Let this process import the example, as its worker does."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@dataclass(frozen=True)
class Options:
    """What the demo was asked for.

    Attributes:
        langfuse: Where traces go, if anywhere.
        tickets: File of tickets.
        examples: Folder that holds the example.
        keep: Leave everything up until Ctrl-C.
        workers_log: Show the worker's log.
        as_json: Print JSON to standard output, and everything else to standard error.
    """

    langfuse: LangfuseSettings
    tickets: Path
    examples: Path
    keep: bool
    workers_log: bool
    as_json: bool
