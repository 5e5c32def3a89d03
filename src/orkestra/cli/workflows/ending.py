"""`orkestra cancel` and `orkestra terminate`."""

from typing import Annotated, Any

import typer
from temporalio.client import WorkflowHandle

from orkestra.cli.options import AsJson
from orkestra.cli.output import tell
from orkestra.cli.workflows.acting import Actor, RunId, WorkflowId, with_actor
from orkestra.cli.workflows.calls import perform_on


@with_actor
def cancel(
    workflow_id: WorkflowId,
    *,
    actor: Actor,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> int:
    """Ask a workflow to end: its code sees the cancellation and may clean up.

    Examples:
      orkestra cancel order-42 --tenant acme
    """

    async def call(handle: WorkflowHandle[Any, Any]) -> None:
        await handle.cancel()

    server_id, _ = perform_on(actor, workflow_id, run_id, call)
    tell(as_json, {"workflow_id": server_id}, f"{server_id}: asked to end")
    return 0


@with_actor
def terminate(
    workflow_id: WorkflowId,
    *,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; it stands in the history.")
    ] = "orkestra terminate",
    actor: Actor,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> int:
    """End a workflow at once: its code learns nothing of it and cleans nothing up.

    Examples:
      orkestra terminate order-42 --tenant acme --reason "stuck since the outage"
    """

    async def call(handle: WorkflowHandle[Any, Any]) -> None:
        await handle.terminate(reason=reason)

    server_id, _ = perform_on(actor, workflow_id, run_id, call)
    tell(as_json, {"workflow_id": server_id, "reason": reason}, f"{server_id}: terminated")
    return 0
