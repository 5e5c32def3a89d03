"""`orkestra doctor`: what keeps work from flowing, and how to mend it."""

import asyncio
from datetime import timedelta
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from orkestra.cli.connecting import log_core_to_python
from orkestra.cli.failures import FAILED
from orkestra.cli.options import AsJson, ConfigFile, duration_option, load_config, parse_name
from orkestra.cli.output import MARKS, plain, write_json
from orkestra.config import OrkestraConfig
from orkestra.doctor import Diagnosis, Finding, diagnose
from orkestra.errors import ConfigurationError

_TIMEOUT: Final = timedelta(seconds=5)


def doctor(
    context: typer.Context,
    *,
    task_queue: Annotated[
        list[str] | None,
        typer.Option(
            parser=parse_name,
            metavar="NAME",
            help="Also look for workers that poll this task queue; may be given again.",
        ),
    ] = None,
    probe_fairness: Annotated[
        bool,
        typer.Option(
            "--probe-fairness",
            help="Also find out whether the server is fair, by starting 132 short activities.",
        ),
    ] = False,
    timeout: Annotated[
        timedelta, duration_option("5s", help="How long each step may take.")
    ] = _TIMEOUT,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Say what keeps work from flowing, and how to mend it.

    Looks at the configuration, DNS, TCP, TLS, credentials, the server, namespaces, the tenant
    search attribute, workers, clocks, fairness, whose IDs are whose, and Langfuse. Exits with 0
    if nothing is wrong and with 1 if something is.

    Examples:
      orkestra doctor
      orkestra doctor --task-queue orders --probe-fairness
      orkestra doctor --json | jq '.findings[] | select(.ok == false)'
    """
    log_core_to_python()
    try:
        settings = load_config(context, config)
    except ConfigurationError as error:
        found = Diagnosis((Finding("configuration", ok=False, detail=str(error)),))
    else:
        found = asyncio.run(
            _diagnosed(settings, task_queue or [], timeout, probe_fairness=probe_fairness)
        )
    if as_json:
        write_json(found.as_dict())
    else:
        _show(found)
    return 0 if found else FAILED


async def _diagnosed(
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


def _show(diagnosis: Diagnosis) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in diagnosis.findings:
        mark, style = MARKS[finding.ok]
        mend = f"; {plain(finding.mend)}" if finding.mend else ""
        line = f"{finding.name:<17} {plain(finding.detail)}"
        console.print(Text.assemble((f"{mark:<5}", style), line, (mend, "bold")))
    wrong = len(diagnosis.problems)
    verdict = f"{wrong} to mend" if wrong else "nothing is wrong"
    console.print(Text(verdict, MARKS[bool(diagnosis)][1]))
