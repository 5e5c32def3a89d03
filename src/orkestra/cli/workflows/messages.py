"""`orkestra signal`, `query` and `update`."""

from typing import Annotated, Any

import typer
from temporalio.client import WorkflowHandle

from orkestra.cli.options import AsJson, parse_name
from orkestra.cli.output import tell
from orkestra.cli.workflows.acting import Actor, RunId, WorkflowId, with_actor
from orkestra.cli.workflows.calls import perform_on
from orkestra.cli.workflows.values import Inputs, as_json, parse_inputs

Name = Annotated[str, typer.Argument(parser=parse_name, metavar="NAME", help="Its name.")]


@with_actor
def signal(
    workflow_id: WorkflowId,
    name: Name,
    *,
    actor: Actor,
    inputs: Inputs = None,
    run_id: RunId = None,
    as_json_: AsJson = False,
) -> int:
    """Send a signal to a workflow. The server takes it, whether the workflow knows it or not.

    Examples:
      orkestra signal order-42 approve --tenant acme
      orkestra signal order-42 pay --tenant acme --input '{"cents": 1200}'
    """
    args = parse_inputs(inputs)

    async def call(handle: WorkflowHandle[Any, Any]) -> None:
        await handle.signal(name, args=args)

    server_id, _ = perform_on(actor, workflow_id, run_id, call)
    tell(as_json_, {"workflow_id": server_id, "signal": name}, f"{server_id}: sent {name}")
    return 0


@with_actor
def query(
    workflow_id: WorkflowId,
    name: Name,
    *,
    actor: Actor,
    inputs: Inputs = None,
    run_id: RunId = None,
    as_json_: AsJson = False,
) -> int:
    """Ask a workflow something, and print the answer as JSON. A worker has to be up.

    Examples:
      orkestra query order-42 status --tenant acme
    """
    args = parse_inputs(inputs)

    async def call(handle: WorkflowHandle[Any, Any]) -> Any:
        return await handle.query(name, args=args)

    server_id, answer = perform_on(actor, workflow_id, run_id, call, what=f"query {name!r}")
    told = {"workflow_id": server_id, "query": name, "answer": answer}
    tell(as_json_, told, as_json(answer))
    return 0


@with_actor
def update(
    workflow_id: WorkflowId,
    name: Name,
    *,
    actor: Actor,
    inputs: Inputs = None,
    run_id: RunId = None,
    as_json_: AsJson = False,
) -> int:
    """Make an update of a workflow, and print what it returns as JSON. A worker has to be up.

    Examples:
      orkestra update order-42 add_item --tenant acme --input '"pen"'
    """
    args = parse_inputs(inputs)

    async def call(handle: WorkflowHandle[Any, Any]) -> Any:
        return await handle.execute_update(name, args=args)  # pyright: ignore[reportUnknownMemberType] - the SDK's own overloads

    server_id, result = perform_on(actor, workflow_id, run_id, call, what=f"update {name!r}")
    told = {"workflow_id": server_id, "update": name, "result": result}
    tell(as_json_, told, as_json(result))
    return 0
