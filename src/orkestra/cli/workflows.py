"""Commands on workflows: start, signal, query, update, cancel, terminate, list and show."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
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
    failure_reason,
    format_json,
    parse_inputs,
    perform,
    perform_on,
)
from orkestra.cli.app import FAILED
from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    Namespace,
    duration_option,
    format_duration,
    name_option,
    parse_name,
    plain,
    plain_table,
    takes,
    write_json,
    write_line,
    write_result,
)
from orkestra.temporal.client import start_workflow


def start(
    context: typer.Context,
    workflow: Annotated[
        str,
        typer.Argument(parser=parse_name, metavar="TYPE", help="Name of the workflow type."),
    ],
    *,
    task_queue: Annotated[str, name_option("Task queue to start it on.")],
    tenant: Tenant = None,
    inputs: Inputs = None,
    workflow_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Workflow ID.  [default: generated]"),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the result, and print it.")
    ] = False,
    timeout: Annotated[
        timedelta | None,
        duration_option("Time limit of the workflow, retries included.", "--execution-timeout"),
    ] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Start a workflow for a tenant.

    Prints the ID that the workflow has on the server. With --wait it prints the result as JSON, and
    exits with 1 if the workflow failed.

    Examples:
      orkestra start Order --tenant acme --task-queue orders --input '{"item": "book"}'
      orkestra start Order --tenant acme --task-queue orders --id order-42 --wait
      echo '"Ada"' | orkestra start Greeting --tenant acme --task-queue greetings -i -
    """
    args = parse_inputs(inputs)
    # Not @takes: a workflow is started for one tenant, so there is no --all-tenants.
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
            # Not raised: the workflow was started, and its ID has to be printed.
            return handle, None, failure_reason(error)

    subject = f"workflow {workflow_id!r}" if workflow_id else f"workflow of type {workflow!r}"
    handle, result, failure = perform(actor, call, subject)
    started: dict[str, Any] = {"workflow_id": handle.id, "run_id": handle.first_execution_run_id}
    line = f"{handle.id} (run {handle.first_execution_run_id})"
    if wait and failure is None:
        started["result"], line = result, format_json(result)
    elif failure is not None:
        started["failure"], line = failure, f"{handle.id} failed: {failure}"
    write_result(started, line, as_json=as_json)
    return FAILED if failure is not None else 0


def _name(help: str) -> Any:
    return typer.Argument(parser=parse_name, metavar="NAME", help=help)


@takes("actor", actor_of)
def signal(
    workflow_id: WorkflowId,
    name: Annotated[str, _name("Name of the signal.")],
    *,
    inputs: Inputs = None,
    run_id: RunId = None,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """Send a signal to a workflow. The server accepts any name, even one without a handler.

    Examples:
      orkestra signal order-42 approve --tenant acme
      orkestra signal order-42 pay --tenant acme --input '{"cents": 1200}'
    """
    args = parse_inputs(inputs)
    # T18: a signal without a handler reaches no interceptor, so nothing here can report it.
    handle_id, _ = perform_on(
        actor, workflow_id, run_id, lambda handle: handle.signal(name, args=args)
    )
    line = f"{handle_id}: signal {name!r} sent"
    write_result({"workflow_id": handle_id, "signal": name}, line, as_json=as_json)
    return 0


@takes("actor", actor_of)
def query(
    workflow_id: WorkflowId,
    name: Annotated[str, _name("Name of the query.")],
    *,
    inputs: Inputs = None,
    run_id: RunId = None,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """Query a workflow, and print the answer as JSON. A worker has to be running.

    Examples:
      orkestra query order-42 status --tenant acme
    """
    args = parse_inputs(inputs)

    async def call(handle: WorkflowHandle[Any, Any]) -> Any:
        return await handle.query(name, args=args)

    handle_id, answer = perform_on(actor, workflow_id, run_id, call, part=f"query {name!r}")
    answered = {"workflow_id": handle_id, "query": name, "answer": answer}
    write_result(answered, format_json(answer), as_json=as_json)
    return 0


@takes("actor", actor_of)
def update(
    workflow_id: WorkflowId,
    name: Annotated[str, _name("Name of the update.")],
    *,
    inputs: Inputs = None,
    run_id: RunId = None,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """Send an update to a workflow, and print its result as JSON. A worker has to be running.

    Examples:
      orkestra update order-42 add_item --tenant acme --input '"pen"'
    """
    args = parse_inputs(inputs)

    async def call(handle: WorkflowHandle[Any, Any]) -> Any:
        return await handle.execute_update(name, args=args)  # pyright: ignore[reportUnknownMemberType] - the SDK's own overloads

    handle_id, result = perform_on(actor, workflow_id, run_id, call, part=f"update {name!r}")
    updated = {"workflow_id": handle_id, "update": name, "result": result}
    write_result(updated, format_json(result), as_json=as_json)
    return 0


@takes("actor", actor_of)
def cancel(
    workflow_id: WorkflowId,
    *,
    run_id: RunId = None,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """Request the cancellation of a workflow. Its code is notified and can clean up.

    Examples:
      orkestra cancel order-42 --tenant acme
    """
    handle_id, _ = perform_on(actor, workflow_id, run_id, lambda handle: handle.cancel())
    line = f"{handle_id}: cancellation requested"
    write_result({"workflow_id": handle_id}, line, as_json=as_json)
    return 0


@takes("actor", actor_of)
def terminate(
    workflow_id: WorkflowId,
    *,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Reason to record in the history.")
    ] = "orkestra terminate",
    run_id: RunId = None,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """Terminate a workflow at once. Its code is not notified and cannot clean up.

    Examples:
      orkestra terminate order-42 --tenant acme --reason "stuck since the outage"
    """
    handle_id, _ = perform_on(
        actor, workflow_id, run_id, lambda handle: handle.terminate(reason=reason)
    )
    terminated = {"workflow_id": handle_id, "reason": reason}
    write_result(terminated, f"{handle_id}: terminated", as_json=as_json)
    return 0


_STATUS_STYLES = {
    WorkflowExecutionStatus.RUNNING: "cyan",
    WorkflowExecutionStatus.COMPLETED: "green",
    WorkflowExecutionStatus.CONTINUED_AS_NEW: "green",
    WorkflowExecutionStatus.CANCELED: "yellow",
}
_FAILED_STYLE = "bold red"


@takes("actor", actor_of)
def list_workflows(
    *,
    query: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help="Temporal list filter, e.g. WorkflowType = 'Order'."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Largest number of workflows to list.")
    ] = 20,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """List the workflows of a tenant, the newest first.

    Examples:
      orkestra list --tenant acme
      orkestra list --tenant acme --query "ExecutionStatus = 'Failed'" --json
      orkestra list --all-tenants --limit 100
    """

    async def call(client: Client) -> list[WorkflowExecution]:
        return [found async for found in client.list_workflows(query, limit=limit)]

    namespace = f"namespace {actor.namespace or actor.config.temporal.namespace!r}"
    found = perform(actor, call, namespace, not_found="not found")
    if as_json:
        write_json({"workflows": [_summary(each) for each in found]})
    else:
        _draw(found)
    return 0


@takes("actor", actor_of)
def show(
    workflow_id: WorkflowId,
    *,
    run_id: RunId = None,
    actor: Actor,
    as_json: AsJson = False,
) -> int:
    """Show the state of a workflow: pending activities, or the result or failure it closed with.

    Examples:
      orkestra show order-42 --tenant acme
      orkestra show order-42 --tenant acme --json | jq .result
    """

    async def call(client: Client) -> dict[str, Any]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        found = await handle.describe()
        state = _summary(found) | {"memo": await found.memo(), "pending": list(_pending(found))}
        if found.status is None or found.status is WorkflowExecutionStatus.RUNNING:
            return state
        # The described run, not the latest: another may have started since.
        this_run = client.get_workflow_handle(workflow_id, run_id=found.run_id)
        try:
            # `follow_runs` would wait for the end of a chain of continue-as-new.
            return state | {"result": await this_run.result(follow_runs=False)}
        except WorkflowFailureError as error:
            return state | {"failure": failure_reason(error)}

    state = perform(actor, call, f"workflow {workflow_id!r}")
    if as_json:
        write_json(state)
        return 0
    for name, value in state.items():
        # Not `if value`: a result of 0 or false has to be shown.
        if value not in (None, "", [], {}):
            shown = value if isinstance(value, str) and name != "result" else format_json(value)
            write_line(f"{name.replace('_', ' '):<12} {shown}")
    return 0


def _summary(found: WorkflowExecution) -> dict[str, Any]:
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
    """Yield each pending activity with the failure of its last attempt."""
    for activity in found.raw_description.pending_activities:
        state = PendingActivityState.Name(activity.state)
        pending: dict[str, Any] = {
            "activity": activity.activity_type.name,
            "state": state.removeprefix("PENDING_ACTIVITY_STATE_").lower(),
            "attempt": activity.attempt,
        }
        if activity.HasField("last_failure"):
            pending["last_failure"] = activity.last_failure.message
        yield pending


def _draw(found: list[WorkflowExecution]) -> None:
    console = Console(highlight=False)
    if not found:
        console.print("no workflows")
        return
    table = plain_table("workflow", "type", "status", "started (UTC)", "duration")
    # An ID must be copyable, so it is wrapped, never cut.
    table.columns[0].overflow = "fold"
    for each in found:
        style = _STATUS_STYLES.get(each.status, _FAILED_STYLE) if each.status else ""
        table.add_row(
            Text(plain(each.id)),
            Text(plain(each.workflow_type)),
            Text(_status(each), style),
            Text(f"{each.start_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"),
            Text(format_duration(each.close_time - each.start_time) if each.close_time else ""),
        )
    console.print(table)


def _status(found: WorkflowExecution) -> str:
    return "unknown" if found.status is None else found.status.name.lower().replace("_", " ")


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(sep=" ", timespec="seconds")
