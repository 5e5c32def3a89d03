"""`orkestra start`."""

from datetime import timedelta
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from orkestra.cli.failures import FAILED
from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    Namespace,
    parse_duration,
    parse_name,
)
from orkestra.cli.output import tell
from orkestra.cli.workflows.acting import Tenant, actor_of
from orkestra.cli.workflows.calls import perform, reason
from orkestra.cli.workflows.values import Inputs, as_json, parse_inputs
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
