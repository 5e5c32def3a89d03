"""`orkestra signal`, `query` and `update`."""

from typing import Annotated, Any

import typer
from temporalio.client import Client

from orkestra.cli.options import AsJson, ConfigFile, Namespace, load_config, parse_name
from orkestra.cli.workflows.acting import Actor, EveryTenant, RunId, Tenant, WorkflowId
from orkestra.cli.workflows.calls import perform, tell
from orkestra.cli.workflows.values import Inputs, as_json, parse_inputs

Name = Annotated[str, typer.Argument(parser=parse_name, metavar="NAME", help="Its name.")]


def signal(
    context: typer.Context,
    workflow_id: WorkflowId,
    name: Name,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    inputs: Inputs = None,
    run_id: RunId = None,
    namespace: Namespace = None,
    as_json_: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Send a signal to a workflow. The server takes it, whether the workflow knows it or not.

    Examples:
      orkestra signal order-42 approve --tenant acme
      orkestra signal order-42 pay --tenant acme --input '{"cents": 1200}'
    """
    args = parse_inputs(inputs)
    actor = _actor(context, config, tenant, namespace, every_tenant=every_tenant)

    async def call(client: Client) -> str:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        await handle.signal(name, args=args)
        return handle.id

    server_id = perform(actor, call, f"workflow {workflow_id!r}")
    tell(as_json_, {"workflow_id": server_id, "signal": name}, f"{server_id}: sent {name}")
    return 0


def query(
    context: typer.Context,
    workflow_id: WorkflowId,
    name: Name,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    inputs: Inputs = None,
    run_id: RunId = None,
    namespace: Namespace = None,
    as_json_: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Ask a workflow something, and print the answer as JSON. A worker has to be up.

    Examples:
      orkestra query order-42 status --tenant acme
    """
    args = parse_inputs(inputs)
    actor = _actor(context, config, tenant, namespace, every_tenant=every_tenant)

    async def call(client: Client) -> tuple[str, Any]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        return handle.id, await handle.query(name, args=args)

    server_id, answer = perform(actor, call, f"query {name!r} of workflow {workflow_id!r}")
    told = {"workflow_id": server_id, "query": name, "answer": answer}
    tell(as_json_, told, as_json(answer))
    return 0


def update(
    context: typer.Context,
    workflow_id: WorkflowId,
    name: Name,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    inputs: Inputs = None,
    run_id: RunId = None,
    namespace: Namespace = None,
    as_json_: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Make an update of a workflow, and print what it returns as JSON. A worker has to be up.

    Examples:
      orkestra update order-42 add_item --tenant acme --input '"pen"'
    """
    args = parse_inputs(inputs)
    actor = _actor(context, config, tenant, namespace, every_tenant=every_tenant)

    async def call(client: Client) -> tuple[str, Any]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        result: Any = await handle.execute_update(name, args=args)  # pyright: ignore[reportUnknownMemberType] - the SDK's own overloads
        return handle.id, result

    server_id, result = perform(actor, call, f"update {name!r} of workflow {workflow_id!r}")
    told = {"workflow_id": server_id, "update": name, "result": result}
    tell(as_json_, told, as_json(result))
    return 0


def _actor(
    context: typer.Context,
    config: Any,
    tenant: str | None,
    namespace: str | None,
    *,
    every_tenant: bool,
) -> Actor:
    settings = load_config(context, config)
    return Actor.of(settings, tenant, every_tenant=every_tenant, namespace=namespace)
