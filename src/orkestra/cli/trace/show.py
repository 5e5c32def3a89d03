"""`orkestra trace show`: a trace from history alone."""

import asyncio

import typer
from rich.console import Console
from temporalio.converter import DataConverter

from orkestra.cli.options import AsJson, ConfigFile, Namespace, load_config
from orkestra.cli.output import write_json
from orkestra.cli.trace.drawing import branches_of, draw
from orkestra.cli.trace.options import (
    Children,
    Converter,
    WholeChain,
    client_of,
    load_converter,
)
from orkestra.cli.workflows.acting import Actor, EveryTenant, RunId, Tenant, WorkflowId
from orkestra.config import LangfuseSettings
from orkestra.temporal.histories import Episode, read_trace


def show(
    context: typer.Context,
    workflow_id: WorkflowId,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    run_id: RunId = None,
    chain: WholeChain = False,
    children: Children = True,
    converter: Converter = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Draw a workflow's trace from its history, without Langfuse.

    Shows when each span began after the first, how long it took, attempts and failures; a signal
    has no duration. Of an activity the history has the last attempt only.

    Examples:
      orkestra trace show order-42 --tenant acme
      orkestra trace show acme:order-42 --all-tenants --chain --json
    """
    settings = load_config(context, config)
    untraced = settings.model_copy(update={"langfuse": LangfuseSettings()})
    actor = Actor.of(untraced, tenant, every_tenant=every_tenant, namespace=namespace)

    async def read(converter: DataConverter) -> list[Episode]:
        async with client_of(actor, converter) as client:
            return await read_trace(
                client, workflow_id, run_id=run_id, children=children, whole_chain=chain
            )

    roots = branches_of(asyncio.run(read(load_converter(converter))))
    if as_json:
        traces = [{"trace_id": r.episode.span.trace_id, "root": r.as_dict()} for r in roots]
        write_json({"traces": traces})
    else:
        draw(Console(highlight=False), roots)
