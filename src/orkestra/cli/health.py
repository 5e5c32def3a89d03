"""`orkestra health`: whether the Temporal service can be worked with, and if not, why not."""

import asyncio
import time
from datetime import timedelta
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from orkestra.cli.connecting import operator_client
from orkestra.cli.failures import FAILED, is_bad_input
from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    Namespace,
    duration_option,
    load_config,
    parse_name,
)
from orkestra.cli.output import MARKS, plain, write_json
from orkestra.config import OrkestraConfig
from orkestra.errors import ConnectionFailedError
from orkestra.temporal.health import HealthReport, check_temporal_health

_TIMEOUT: Final = timedelta(seconds=5)
_AT_LEAST: Final = timedelta(milliseconds=100)


def health(
    context: typer.Context,
    *,
    task_queue: Annotated[
        str | None,
        typer.Option(
            parser=parse_name,
            metavar="NAME",
            help="Also look for workers that poll this task queue.",
        ),
    ] = None,
    namespace: Namespace = None,
    timeout: Annotated[
        timedelta, duration_option("5s", help="How long all of it may take.")
    ] = _TIMEOUT,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Say whether the Temporal service can be worked with, and if not, why not.

    Looks at the connection, the server, the namespace, the tenant search attribute and, with
    --task-queue, at the workers there. Exits with 0 if all is well and with 1 if something is not.

    Examples:
      orkestra health
      orkestra health --task-queue orders --timeout 2s
      orkestra health --json | jq .healthy
    """
    settings = load_config(context, config)
    report = asyncio.run(_examine(settings, namespace, task_queue, timeout))
    if as_json:
        write_json(report.as_dict())
    else:
        _show(report)
    return 0 if report else FAILED


async def _examine(
    settings: OrkestraConfig, namespace: str | None, task_queue: str | None, timeout: timedelta
) -> HealthReport:
    """Examine within the time-out, connecting included."""
    namespace = settings.temporal.namespace if namespace is None else namespace
    attribute = None if settings.tenancy.mode == "off" else settings.tenancy.search_attribute
    started = time.monotonic()
    try:
        async with operator_client(
            settings.temporal, namespace=namespace, deadline=timeout, verify_namespace=False
        ) as client:
            left = timeout - timedelta(seconds=time.monotonic() - started)
            return await check_temporal_health(
                client,
                timeout=max(left, _AT_LEAST),
                task_queue=task_queue,
                search_attribute=attribute,
            )
    except ConnectionFailedError as error:
        if is_bad_input(error):
            raise
        return HealthReport.of_failed_connection(error, namespace=namespace)


def _show(report: HealthReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    verdict = "healthy" if report else "unhealthy"
    where = plain(f" {report.address}, namespace {report.namespace!r}")
    console.print(Text.assemble((verdict, MARKS[report.healthy][1]), where))
    for check in report.checks:
        mark, style = MARKS[check.ok]
        finding = f"{check.name:<17} {plain(check.detail)}"
        console.print(Text.assemble((f"{mark:<5}", style), finding))
