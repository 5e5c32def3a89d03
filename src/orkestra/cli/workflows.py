"""`orkestra start`.

`orkestra signal`, `query` and `update`.

`orkestra cancel` and `orkestra terminate`.

`orkestra list` and `orkestra show`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)

from orkestra.cli.actor import (
    Actor,
    Inputs,
    RunId,
    Tenant,
    WorkflowId,
    actor_of,
    as_json,
    parse_inputs,
    perform,
    perform_on,
    reason,
    since,
    with_actor,
)
from orkestra.cli.app import FAILED
from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    Namespace,
    parse_duration,
    parse_name,
    plain,
    tell,
    write_json,
    write_line,
)
from orkestra.temporal.client import start_workflow


def start(
    context: typer.Context,
    workflow: Annotated[
        str,
        typer.Argument(parser=parse_name, metavar="TYPE", help="Name of the workflow's type."),
    ],
    *,
    task_queue: Annotated[
        str, typer.Option(parser=parse_name, metavar="NAME", help="Task queue to start it on.")
    ],
    tenant: Tenant = None,
    inputs: Inputs = None,
    workflow_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Its ID.  [default: one is made]"),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the result, and print it.")
    ] = False,
    timeout: Annotated[
        timedelta | None,
        typer.Option(
            "--execution-timeout",
            parser=parse_duration,
            metavar="DURATION",
            help="End it after this time, whatever it does.",
        ),
    ] = None,
    namespace: Namespace = None,
    as_json_: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Start a workflow for a tenant.

    Prints the workflow's ID on the server. With --wait it prints the result as JSON, and exits
    with 1 if the workflow failed.

    Examples:
      orkestra start Order --tenant acme --task-queue orders --input '{"item": "book"}'
      orkestra start Order --tenant acme --task-queue orders --id order-42 --wait
      echo '"Ada"' | orkestra start Greeting --tenant acme --task-queue greetings -i -
    """
    args = parse_inputs(inputs)
    actor = actor_of(context, tenant=tenant, namespace=namespace, config=config)

    async def call(client: Client) -> tuple[WorkflowHandle[Any, Any], Any, str | None]:
        handle = await start_workflow(
            client,
            workflow,
            *args,
            task_queue=task_queue,
            workflow_id=workflow_id,
            execution_timeout=timeout,
        )
        if not wait:
            return handle, None, None
        try:
            return handle, await handle.result(), None
        except WorkflowFailureError as error:
            return handle, None, reason(error)

    shown = f"workflow {workflow_id!r}" if workflow_id else f"a workflow {workflow!r}"
    handle, result, failure = perform(actor, call, shown)
    told: dict[str, Any] = {"workflow_id": handle.id, "run_id": handle.first_execution_run_id}
    line = f"{handle.id} (run {handle.first_execution_run_id})"
    if wait and failure is None:
        told["result"], line = result, as_json(result)
    elif failure is not None:
        told["failure"], line = failure, f"{handle.id} failed: {failure}"
    tell(as_json_, told, line)
    return FAILED if failure is not None else 0


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


_STYLES = {
    WorkflowExecutionStatus.RUNNING: "cyan",
    WorkflowExecutionStatus.COMPLETED: "green",
    WorkflowExecutionStatus.CONTINUED_AS_NEW: "green",
    WorkflowExecutionStatus.CANCELED: "yellow",
}
_BAD = "bold red"


@with_actor
def list_workflows(
    *,
    actor: Actor,
    query: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help="Which: Temporal's list filter, e.g. WorkflowType='A'."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 20,
    as_json_: AsJson = False,
) -> int:
    """List workflows of a tenant, the newest first.

    Examples:
      orkestra list --tenant acme
      orkestra list --tenant acme --query "ExecutionStatus = 'Failed'" --json
      orkestra list --all-tenants --limit 100
    """

    async def call(client: Client) -> list[WorkflowExecution]:
        return [found async for found in client.list_workflows(query, limit=limit)]

    found = perform(actor, call, "the list of workflows")
    if as_json_:
        write_json({"workflows": [_told(each) for each in found]})
    else:
        _draw(found)
    return 0


@with_actor
def show(
    workflow_id: WorkflowId,
    *,
    actor: Actor,
    run_id: RunId = None,
    as_json_: AsJson = False,
) -> int:
    """Show what a workflow is doing, or how it ended.

    Examples:
      orkestra show order-42 --tenant acme
      orkestra show order-42 --tenant acme --json | jq .result
    """

    async def call(client: Client) -> dict[str, Any]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        found = await handle.describe()
        told = _told(found) | {"memo": await found.memo(), "pending": list(_pending(found))}
        if found.status is None or found.status is WorkflowExecutionStatus.RUNNING:
            return told
        this_run = client.get_workflow_handle(workflow_id, run_id=found.run_id)
        try:
            return told | {"result": await this_run.result(follow_runs=False)}
        except WorkflowFailureError as error:
            return told | {"failure": reason(error)}

    told = perform(actor, call, f"workflow {workflow_id!r}")
    if as_json_:
        write_json(told)
        return 0
    for name, value in told.items():
        if value not in (None, "", [], {}):
            shown = value if isinstance(value, str) and name != "result" else as_json(value)
            write_line(f"{name.replace('_', ' '):<12} {shown}")
    return 0


def _told(found: WorkflowExecution) -> dict[str, Any]:
    return {
        "workflow_id": found.id,
        "run_id": found.run_id,
        "type": found.workflow_type,
        "status": _status(found),
        "task_queue": found.task_queue,
        "started": _time(found.start_time),
        "closed": _time(found.close_time),
        "events": found.history_length,
    }


def _pending(found: WorkflowExecutionDescription) -> Iterator[dict[str, Any]]:
    """Activities that are not done, with what went wrong in their last attempt."""
    for activity in found.raw_description.pending_activities:
        state = PendingActivityState.Name(activity.state)
        told: dict[str, Any] = {
            "activity": activity.activity_type.name,
            "state": state.removeprefix("PENDING_ACTIVITY_STATE_").lower(),
            "attempt": activity.attempt,
        }
        if activity.HasField("last_failure"):
            told["last_failure"] = activity.last_failure.message
        yield told


def _draw(found: list[WorkflowExecution]) -> None:
    console = Console(highlight=False)
    if not found:
        console.print("no workflows")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("workflow", "type", "status", "started (UTC)", "took"):
        table.add_column(column, overflow="fold" if column == "workflow" else "ellipsis")
    for each in found:
        style = _STYLES.get(each.status, _BAD) if each.status else ""
        table.add_row(
            Text(plain(each.id)),
            Text(plain(each.workflow_type)),
            Text(_status(each), style),
            Text(f"{each.start_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"),
            Text(since(each.start_time, each.close_time)),
        )
    console.print(table)


def _status(found: WorkflowExecution) -> str:
    return "unknown" if found.status is None else found.status.name.lower().replace("_", " ")


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(sep=" ", timespec="seconds")
