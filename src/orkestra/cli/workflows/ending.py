"""`orkestra cancel` and `orkestra terminate`."""

from typing import Annotated

import typer
from temporalio.client import Client

from orkestra.cli.options import AsJson, ConfigFile, Namespace, load_config
from orkestra.cli.workflows.acting import Actor, EveryTenant, RunId, Tenant, WorkflowId
from orkestra.cli.workflows.calls import perform, tell


def cancel(
    context: typer.Context,
    workflow_id: WorkflowId,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    run_id: RunId = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Ask a workflow to end: its code sees the cancellation and may clean up.

    Examples:
      orkestra cancel order-42 --tenant acme
    """
    settings = load_config(context, config)
    actor = Actor.of(settings, tenant, every_tenant=every_tenant, namespace=namespace)

    async def call(client: Client) -> str:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        await handle.cancel()
        return handle.id

    server_id = perform(actor, call, f"workflow {workflow_id!r}")
    tell(as_json, {"workflow_id": server_id}, f"{server_id}: asked to end")
    return 0


def terminate(
    context: typer.Context,
    workflow_id: WorkflowId,
    *,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; it stands in the history.")
    ] = "orkestra terminate",
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    run_id: RunId = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """End a workflow at once: its code learns nothing of it and cleans nothing up.

    Examples:
      orkestra terminate order-42 --tenant acme --reason "stuck since the outage"
    """
    settings = load_config(context, config)
    actor = Actor.of(settings, tenant, every_tenant=every_tenant, namespace=namespace)

    async def call(client: Client) -> str:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        await handle.terminate(reason=reason)
        return handle.id

    server_id = perform(actor, call, f"workflow {workflow_id!r}")
    tell(as_json, {"workflow_id": server_id, "reason": reason}, f"{server_id}: terminated")
    return 0
