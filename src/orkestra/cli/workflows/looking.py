"""`orkestra list` and `orkestra show`."""

from collections.abc import Iterator
from datetime import UTC, datetime
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
)

from orkestra.cli.options import AsJson
from orkestra.cli.output import plain, write_json, write_line
from orkestra.cli.workflows.acting import Actor, RunId, WorkflowId, with_actor
from orkestra.cli.workflows.calls import perform, reason
from orkestra.cli.workflows.values import as_json, since

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
