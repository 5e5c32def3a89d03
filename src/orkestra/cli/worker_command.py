"""`orkestra worker`: run the workflows and activities of some modules until a signal."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError
from temporalio.runtime import Runtime
from temporalio.worker import Worker

from orkestra.cli.options import Namespace, load_config, log_core_to_python, name_option, takes
from orkestra.config import OrkestraConfig, WorkerSettings
from orkestra.temporal.logs import LogStyle, configure_logging
from orkestra.temporal.manager import metered_runtime
from orkestra.temporal.run_worker import run_worker
from orkestra.temporal.worker import create_worker, discover

_logger: Final = logging.getLogger(__name__)


def _parse_address(value: str) -> str:
    try:
        WorkerSettings(probes_address=value)
    except ValidationError:
        msg = f"{value!r} is not host:port, for instance 127.0.0.1:9464"
        raise typer.BadParameter(msg) from None
    return value


@takes("settings", load_config)
def worker(
    modules: Annotated[
        list[str],
        typer.Argument(metavar="MODULE...", help="Modules or packages, by their dotted names."),
    ],
    *,
    task_queue: Annotated[str, name_option("Task queue to poll.")],
    namespace: Namespace = None,
    probes: Annotated[
        str | None,
        typer.Option(
            parser=_parse_address,
            metavar="HOST:PORT",
            help="Address to serve /livez, /readyz and /metrics.  [default: worker.probes_address]",
        ),
    ] = None,
    log: Annotated[
        LogStyle,
        typer.Option(help="Log format; auto is text on a terminal, otherwise json."),
    ] = "auto",
    settings: OrkestraConfig,
) -> int:
    """Run all workflows and activities of the modules, until SIGTERM or Ctrl-C.

    Modules are searched in the working directory and on Python's path. On a signal the worker
    stops polling, gives activities worker.graceful_shutdown_timeout to finish, sends the remaining
    spans and exits with 0. A second signal ends it at once.

    Examples:
      orkestra worker my_app.workflows --task-queue orders
      orkestra worker orders billing --task-queue shop --namespace staging
      orkestra worker my_app.workflows --task-queue orders --probes 127.0.0.1:9464
    """
    if probes is not None:
        probed = settings.worker.model_copy(update={"probes_address": probes})
        settings = settings.model_copy(update={"worker": probed})
    # The console script, unlike `python -m`, does not search the working directory.
    sys.path.insert(0, str(Path.cwd()))
    # The runtime has to exist before the first client; a default runtime cannot be replaced.
    if settings.worker.probes_address is None:
        log_core_to_python()
    else:
        Runtime.set_default(metered_runtime(), error_if_already_set=False)
    # Until the worker runs, an error is one line; only retries of the connection are logged.
    logging.getLogger("orkestra").setLevel(logging.WARNING)
    # A coroutine: `run_worker` installs its signal handlers before it awaits the connection.
    starting = _create(settings, modules, task_queue, namespace, log)
    return asyncio.run(run_worker(starting, config=settings))


async def _create(
    settings: OrkestraConfig,
    modules: list[str],
    task_queue: str,
    namespace: str | None,
    log: LogStyle,
) -> Worker:
    # T33: a worker connects to a missing namespace and fails only in `run()`, with a RuntimeError.
    temporal = settings.temporal.model_copy(update={"verify_namespace": True})
    settings = settings.model_copy(update={"temporal": temporal})
    # Before the connection: an import error needs no server to be found.
    found = [discover(module) for module in modules]
    created = await create_worker(
        settings,
        task_queue=task_queue,
        workflows=[workflow for each in found for workflow in each.workflows],
        activities=[activity for each in found for activity in each.activities],
        namespace=namespace,
    )
    logging.getLogger("orkestra").setLevel(logging.NOTSET)
    configure_logging(style=log, config=settings)
    where = (task_queue, created.client.namespace, temporal.address)
    _logger.info("Starting on task queue %r in namespace %r at %s", *where)
    return created
