"""Commands that check an installation: `orkestra health` and `orkestra doctor`."""

import asyncio
import time
from datetime import timedelta
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from orkestra.cli.app import FAILED, is_bad_input
from orkestra.cli.options import (
    MARKS,
    AsJson,
    ConfigFile,
    Namespace,
    duration_option,
    load_config,
    log_core_to_python,
    name_option,
    operator_client,
    plain,
    takes,
    write_json,
)
from orkestra.config import OrkestraConfig
from orkestra.doctor import Diagnosis, Finding, diagnose
from orkestra.errors import ConfigurationError, ConnectionFailedError
from orkestra.temporal.health import HealthReport, check_temporal_health

_TIMEOUT: Final = timedelta(seconds=5)
_SHORTEST_CHECK: Final = timedelta(milliseconds=100)


@takes("settings", load_config)
def health(
    *,
    task_queue: Annotated[
        str | None, name_option("Also check that workers poll this task queue.")
    ] = None,
    namespace: Namespace = None,
    timeout: Annotated[
        timedelta, duration_option("Time limit of the whole check.  [default: 5s]")
    ] = _TIMEOUT,
    settings: OrkestraConfig,
    as_json: AsJson = False,
) -> int:
    """Check that the Temporal service is reachable and ready.

    Checks the connection, the server, the namespace, the tenant search attribute and, with
    --task-queue, the workers of the queue. Exits with 0 if everything is healthy, else with 1.

    Examples:
      orkestra health
      orkestra health --task-queue orders --timeout 2s
      orkestra health --json | jq .healthy
    """
    report = asyncio.run(_check(settings, namespace, task_queue, timeout))
    if as_json:
        write_json(report.as_dict())
    else:
        _show_health(report)
    return 0 if report else FAILED


async def _check(
    settings: OrkestraConfig, namespace: str | None, task_queue: str | None, timeout: timedelta
) -> HealthReport:
    """Check the health within the time limit, connecting included."""
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
                # Connecting may have used up the time: leave the checks a moment.
                timeout=max(left, _SHORTEST_CHECK),
                task_queue=task_queue,
                search_attribute=attribute,
            )
    except ConnectionFailedError as error:
        # A wrong setting is exit code 2; a server that is down is a report with exit code 1.
        if is_bad_input(error):
            raise
        return HealthReport.of_failed_connection(error, namespace=namespace)


def _show_health(report: HealthReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    summary = "healthy" if report else "unhealthy"
    where = plain(f" {report.address}, namespace {report.namespace!r}")
    console.print(Text.assemble((summary, MARKS[report.healthy][1]), where))
    for check in report.checks:
        mark, style = MARKS[check.ok]
        finding = f"{check.name:<17} {plain(check.detail)}"
        console.print(Text.assemble((f"{mark:<5}", style), finding))


def doctor(
    context: typer.Context,
    *,
    task_queue: Annotated[
        list[str] | None,
        name_option("Also check that workers poll this task queue; repeatable."),
    ] = None,
    probe_fairness: Annotated[
        bool,
        typer.Option(
            "--probe-fairness",
            help="Also measure the server's fairness, by starting 132 short activities.",
        ),
    ] = False,
    timeout: Annotated[
        timedelta, duration_option("Time limit of each check.  [default: 5s]")
    ] = _TIMEOUT,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Diagnose configuration and connectivity, and say how to fix each problem.

    Checks the configuration, DNS, TCP, TLS, credentials, the server, namespaces, the tenant search
    attribute, workers, clocks, fairness, the ownership of IDs, and Langfuse. Exits with 0 if no
    problem was found, else with 1.

    Examples:
      orkestra doctor
      orkestra doctor --task-queue orders --probe-fairness
      orkestra doctor --json | jq '.findings[] | select(.ok == false)'
    """
    log_core_to_python()
    try:
        settings = load_config(context, config)
    except ConfigurationError as error:
        # A finding, not exit code 2: a wrong configuration is what the doctor looks for.
        diagnosis = Diagnosis((Finding("configuration", ok=False, detail=str(error)),))
    else:
        diagnosis = asyncio.run(
            _diagnose(settings, task_queue or [], timeout, probe_fairness=probe_fairness)
        )
    if as_json:
        write_json(diagnosis.as_dict())
    else:
        _show_diagnosis(diagnosis)
    return 0 if diagnosis else FAILED


async def _diagnose(
    settings: OrkestraConfig, task_queues: list[str], timeout: timedelta, *, probe_fairness: bool
) -> Diagnosis:
    configuration = Finding("configuration", ok=True, detail=_summary(settings))
    rest = await diagnose(
        settings, task_queues=task_queues, timeout=timeout, probe_fairness=probe_fairness
    )
    return Diagnosis((configuration, *rest.findings))


def _summary(settings: OrkestraConfig) -> str:
    temporal, tenancy = settings.temporal, settings.tenancy
    tenants = f", {len(settings.tenants)} tenants" if settings.tenants else ""
    return (
        f"{temporal.address}, namespace {temporal.namespace!r}, tenancy {tenancy.mode},"
        f" {tenancy.workflow_ids} IDs{tenants}"
    )


def _show_diagnosis(diagnosis: Diagnosis) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in diagnosis.findings:
        mark, style = MARKS[finding.ok]
        fix = f"; {plain(finding.fix)}" if finding.fix else ""
        line = f"{finding.name:<17} {plain(finding.detail)}"
        console.print(Text.assemble((f"{mark:<5}", style), line, (fix, "bold")))
    count = len(diagnosis.problems)
    summary = f"{count or 'no'} {'problem' if count == 1 else 'problems'} found"
    console.print(Text(summary, MARKS[bool(diagnosis)][1]))
