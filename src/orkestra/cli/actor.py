"""The actor of a command: the tenant or operator it acts for, and calls with that client.

Each command of a workflow takes an `Actor` from the options `--tenant`, `--all-tenants` and
`--namespace` and makes one call with `perform()` or `perform_on()`, whose errors name the workflow.
Arguments and results are JSON.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.converter import DataConverter
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from orkestra.cli.options import (
    ConfigFile,
    Namespace,
    connection_manager,
    load_config,
    parse_name,
    plain,
)
from orkestra.config import OrkestraConfig
from orkestra.errors import ExecutionNotFoundError, OrkestraError, TenantRequiredError
from orkestra.tenancy import ALL_TENANTS, AllTenants

_Result = TypeVar("_Result")

Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="ID", envvar="ORKESTRA_TENANT", help="Tenant to act for."),
]
EveryTenant = Annotated[
    bool, typer.Option("--all-tenants", help="Act as an operator, across all tenants.")
]
WorkflowId = Annotated[
    str, typer.Argument(parser=parse_name, metavar="WORKFLOW_ID", help="ID of the workflow.")
]
RunId = Annotated[
    str | None,
    typer.Option("--run-id", metavar="RUN", help="Run of the workflow.  [default: the latest]"),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="JSON",
        help="Argument as JSON, @FILE to read it from a file, or - for standard input; repeatable.",
    ),
]


@dataclass(frozen=True, slots=True)
class Actor:
    """The tenant or operator that a command acts for; its tenant is None where tenancy is off."""

    config: OrkestraConfig
    tenant: str | AllTenants | None
    namespace: str | None

    @asynccontextmanager
    async def client(
        self, *, is_traced: bool = False, data_converter: DataConverter = DataConverter.default
    ) -> AsyncGenerator[Client]:
        """Connect a client that is bound to the actor."""
        async with connection_manager(
            self.config, is_traced=is_traced, data_converter=data_converter
        ) as manager:
            yield await manager.get_client(namespace=self.namespace, tenant=self.tenant)


def actor_of(
    context: typer.Context,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    namespace: Namespace = None,
    config: ConfigFile = None,
) -> Actor:
    """Make the actor of the options; `@takes("actor", actor_of)` adds them to a command."""
    loaded = load_config(context, config)
    # Even with --tenant: without tenancy there is nothing to bind the client to.
    if loaded.tenancy.mode == "off":
        return Actor(loaded, None, namespace)
    if tenant is None and not every_tenant:
        msg = "no tenant given: use --tenant ID, or set ORKESTRA_TENANT"
        raise TenantRequiredError(msg)
    return Actor(loaded, ALL_TENANTS if every_tenant else tenant, namespace)


class CallFailedError(OrkestraError):
    """A call that the server refused, or that failed in the workflow."""


def perform(
    actor: Actor,
    call: Callable[[Client], Awaitable[_Result]],
    subject: str,
    *,
    part: str = "",
    not_found: str = "not found, or already closed",
) -> _Result:
    """Make a call with a client of the actor.

    Errors begin with the `part` of the `subject` that failed: `query 'status' of workflow 'r18'`.
    """

    async def connect_and_call() -> _Result:
        async with actor.client() as client:
            return await call(client)

    called = f"{part} of {subject}" if part else subject
    try:
        return asyncio.run(connect_and_call())
    except WorkflowAlreadyStartedError as error:
        raise CallFailedError(f"{subject} is already running: choose another --id") from error
    except (WorkflowFailureError, WorkflowUpdateFailedError, WorkflowQueryFailedError) as error:
        raise CallFailedError(f"{called}: {failure_reason(error)}") from error
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise ExecutionNotFoundError(f"{subject} {not_found}") from error
        raise CallFailedError(f"{called}: {error.status.name}: {error.message}") from error


def perform_on(
    actor: Actor,
    workflow_id: str,
    run_id: str | None,
    call: Callable[[WorkflowHandle[Any, Any]], Awaitable[_Result]],
    *,
    part: str = "",
) -> tuple[str, _Result]:
    """Call a workflow as `perform()` does; return the ID of its handle, and the result."""

    async def call_workflow(client: Client) -> tuple[str, _Result]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        return handle.id, await call(handle)

    return perform(actor, call_workflow, f"workflow {workflow_id!r}", part=part)


def failure_reason(error: BaseException) -> str:
    """Join the messages of a failure and its causes, the deepest last."""
    messages: list[str] = []
    # The outer error of the SDK says only that the workflow failed.
    cause: BaseException | None = error.__cause__ or error
    while cause is not None:
        # An ApplicationError has the application's own type in `type`.
        kind = getattr(cause, "type", None) or type(cause).__name__
        message = getattr(cause, "message", None) or str(cause)
        messages.append(f"{kind}: {message}" if message else str(kind))
        cause = cause.__cause__
    return ", caused by ".join(messages)


def parse_inputs(texts: Sequence[str] | None) -> list[Any]:
    """Read the values of `--input`."""
    return [_parse_input(text) for text in texts or ()]


def _parse_input(text: str) -> Any:
    source = text
    if text == "-":
        source = sys.stdin.read()
    elif text.startswith("@"):
        try:
            source = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{text!r} cannot be read: {error}"
            raise typer.BadParameter(msg) from error
    try:
        return json.loads(source)
    except ValueError as error:
        shown = "standard input" if text == "-" else repr(text)
        msg = f"{shown} is not JSON ({error}): a string needs quotes, '\"like this\"'"
        raise typer.BadParameter(msg) from error


def format_json(value: Any) -> str:
    """Format a value as JSON on one line; what JSON has no form for becomes a string."""
    # Readable letters, so control characters have to be escaped by `plain()`.
    return plain(json.dumps(value, ensure_ascii=False, default=str))
