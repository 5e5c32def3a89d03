"""`orkestra worker`: the workflows and activities of some modules, until a signal."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from orkestra.cli.connecting import log_core_to_python
from orkestra.cli.options import ConfigFile, Namespace, load_config, parse_name
from orkestra.cli.output import log_to_stderr
from orkestra.config import OrkestraConfig
from orkestra.temporal.discovery import discover
from orkestra.temporal.lifecycle import run_worker
from orkestra.temporal.worker import create_worker

_logger: Final = logging.getLogger(__name__)


def worker(
    context: typer.Context,
    modules: Annotated[
        list[str],
        typer.Argument(metavar="MODULE...", help="Modules or packages, by their dotted names."),
    ],
    *,
    task_queue: Annotated[
        str, typer.Option(parser=parse_name, metavar="NAME", help="Task queue to poll.")
    ],
    namespace: Namespace = None,
    config: ConfigFile = None,
) -> int:
    """Run every workflow and activity that some modules define, until SIGTERM or Ctrl-C.

    Modules are found as Python finds them, and in the working directory. On a signal the worker
    takes nothing new, gives activities worker.graceful_shutdown_timeout to finish, sends what is
    left of the traces and exits with 0. A second signal ends it at once.

    Examples:
      orkestra worker my_app.workflows --task-queue orders
      orkestra worker orders billing --task-queue shop --namespace staging
    """
    settings = load_config(context, config)
    sys.path.insert(0, str(Path.cwd()))
    log_core_to_python()
    # What goes wrong until it runs is told in one line, but for the tries to connect.
    logging.getLogger("orkestra").setLevel(logging.WARNING)
    return asyncio.run(_run(settings, modules, task_queue, namespace))


async def _run(
    settings: OrkestraConfig, modules: list[str], task_queue: str, namespace: str | None
) -> int:
    temporal = settings.temporal.model_copy(update={"verify_namespace": True})
    settings = settings.model_copy(update={"temporal": temporal})
    found = [discover(module) for module in modules]
    made = await create_worker(
        settings,
        task_queue=task_queue,
        workflows=[workflow for each in found for workflow in each.workflows],
        activities=[activity for each in found for activity in each.activities],
        namespace=namespace,
    )
    logging.getLogger("orkestra").setLevel(logging.NOTSET)
    log_to_stderr(logging.INFO)
    where = (task_queue, made.client.namespace, temporal.address)
    _logger.info("Starting on task queue %r in namespace %r at %s", *where)
    return await run_worker(made)
