"""The command: options in, exit code out."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from orkestra.cli.connecting import log_core_to_python
from orkestra.cli.dev.session import Options, develop
from orkestra.cli.dev.watching import find_application
from orkestra.cli.options import ConfigFile, duration_option, load_config, parse_name
from orkestra.devserver.ports import why_not
from orkestra.errors import ConfigurationError

_PORT: Final = 7233  # where clients look when nobody tells them
_LAST_PORT: Final = 65_535
_GRACE: Final = timedelta(seconds=5)


def dev(
    context: typer.Context,
    app: Annotated[
        str,
        typer.Argument(
            metavar="APP",
            parser=parse_name,
            help="A module or package with workflows, or module:function.",
        ),
    ],
    *,
    task_queue: Annotated[
        str | None,
        typer.Option(
            parser=parse_name,
            metavar="NAME",
            help="Task queue.  [default: TASK_QUEUE of the package, or its name]",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port of Temporal; 0 takes a free one.")
    ] = _PORT,
    ui_port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port of its web UI; 0 takes a free one.")
    ] = _PORT + 1000,
    traces_port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port of the trace page; 0: a free one.")
    ] = _PORT + 1001,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the workflows and traces of earlier runs.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Run code that open executions cannot go on with, too."),
    ] = False,
    grace: Annotated[
        timedelta,
        duration_option("5s", help="How long activities may go on when the worker is to end."),
    ] = _GRACE,
    config: ConfigFile = None,
) -> None:
    """Run an application while it is being written, until Ctrl-C.

    Starts a Temporal server with its UI, a page that shows traces, and a worker that starts anew
    whenever a source file is saved. Workflows go on across that: first their histories are replayed
    against the new code, and where one cannot go on, the worker waits and says which and why.

    APP is a module or package whose workflows and activities are found, or module:function with a
    function that returns workers. Workflows and traces are kept in .orkestra/ from run to run.
    Traces go to Langfuse where its keys are set, else to the page.

    Examples:
      orkestra dev my_app
      orkestra dev my_app.workflows --task-queue orders --fresh
      orkestra dev my_app.main:make_worker
    """
    _check_ports(port, ui_port, traces_port)
    sys.path.insert(0, str(Path.cwd()))
    options = Options(
        app=app,
        roots=find_application(app.partition(":")[0]),
        task_queue=task_queue,
        config=load_config(context, config),
        config_file=config or context.find_root().obj,
        port=port or None,
        ui_port=ui_port or None,
        traces_port=traces_port,
        fresh=fresh,
        force=force,
        grace=grace,
    )
    log_core_to_python()
    asyncio.run(develop(options))


def _check_ports(port: int, ui_port: int, traces_port: int) -> None:
    given = {"--port": port, "--ui-port": ui_port, "--traces-port": traces_port}
    for option, number in given.items():
        reason = why_not(number) if number else None
        if reason is not None:
            msg = (
                f"{option} {number} cannot be used: {reason}: free it; {option} 0 takes a free one"
            )
            raise ConfigurationError(msg)
    chosen = [number for number in given.values() if number]
    if len(set(chosen)) < len(chosen):
        msg = f"{', '.join(given)} are {', '.join(map(str, given.values()))}: use different ports"
        raise ConfigurationError(msg)
