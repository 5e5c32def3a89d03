"""For whom a command acts, and the client it acts with.

What every command of a workflow does around its call: connect and name failures.

What goes in and comes out: JSON both ways.
"""

import asyncio
import functools
import inspect
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
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

_Code = TypeVar("_Code")

Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="ID", envvar="ORKESTRA_TENANT", help="The tenant to act for."),
]
EveryTenant = Annotated[
    bool, typer.Option("--all-tenants", help="Act as an operator, across tenants.")
]
WorkflowId = Annotated[
    str,
    typer.Argument(parser=parse_name, metavar="WORKFLOW_ID", help="ID of the workflow."),
]
RunId = Annotated[
    str | None,
    typer.Option("--run-id", metavar="RUN", help="A run of it.  [default: the latest]"),
]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and where.

    Attributes:
        config: The configuration.
        tenant: The tenant; None where tenancy is off.
        namespace: The namespace; None means the tenant's.
    """

    config: OrkestraConfig
    tenant: str | AllTenants | None
    namespace: str | None

    @asynccontextmanager
    async def client(
        self, *, is_traced: bool = False, data_converter: DataConverter = DataConverter.default
    ) -> AsyncGenerator[Client]:
        """A client of whoever acts, while the connection is open.

        Args:
            is_traced: Whether it traces as the configuration says.
            data_converter: Reads the values.

        Yields:
            The client.

        Raises:
            ConnectionFailedError: The service could not be reached.
            TenantError: The tenant is malformed, unknown or suspended.
        """
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
    """Who acts by the options of a command.

    Raises:
        ConfigurationError: The configuration cannot be loaded.
        TenantRequiredError: Tenancy is on, and no option says for whom.
    """
    loaded = load_config(context, config)
    if loaded.tenancy.mode == "off":
        return Actor(loaded, None, namespace)
    if tenant is None and not every_tenant:
        msg = "no tenant to act for: give --tenant ID, or set ORKESTRA_TENANT"
        raise TenantRequiredError(msg)
    return Actor(loaded, ALL_TENANTS if every_tenant else tenant, namespace)


def with_actor(command: Callable[..., _Code]) -> Callable[..., _Code]:
    """Give a command that takes an `actor` the options of `actor_of()` in its place.

    Args:
        command: Its last parameter is `as_json`. In its help, the tenant's options stand where
            `actor` does, and the namespace and the configuration around `--json`.
    """
    asked = inspect.signature(actor_of).parameters
    own = inspect.signature(command).parameters
    names = list(own)
    place = names.index("actor")
    order = ["context", *names[:place], "tenant", "every_tenant", *names[place + 1 : -1]]
    order += ["namespace", names[-1], "config"]

    @functools.wraps(command)
    def acted(**given: Any) -> _Code:
        options = {name: given.pop(name) for name in asked}
        return command(actor=actor_of(**options), **given)

    parameters = [asked.get(name) or own[name] for name in order]
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    acted.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    return acted


_Done = TypeVar("_Done")


class CallFailedError(OrkestraError):
    """The server, or the workflow, said no."""


def perform(actor: Actor, call: Callable[[Client], Awaitable[_Done]], what: str) -> _Done:
    """Make a call with a client of the actor.

    Args:
        actor: Who acts.
        call: The call.
        what: What it is about, for the error: `workflow 'order-42'`.

    Returns:
        What the call returned.

    Raises:
        ExecutionNotFoundError: The server does not know it.
        CallFailedError: The server or the workflow refused.
    """

    async def connected() -> _Done:
        async with actor.client() as client:
            return await call(client)

    try:
        return asyncio.run(connected())
    except WorkflowAlreadyStartedError as error:
        raise CallFailedError(f"{what} runs already: choose another --id") from error
    except (WorkflowFailureError, WorkflowUpdateFailedError, WorkflowQueryFailedError) as error:
        raise CallFailedError(f"{what}: {reason(error)}") from error
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise ExecutionNotFoundError(f"{what} does not exist, or has ended") from error
        raise CallFailedError(f"{what}: {error.status.name}: {error.message}") from error


def perform_on(
    actor: Actor,
    workflow_id: str,
    run_id: str | None,
    call: Callable[[WorkflowHandle[Any, Any]], Awaitable[_Done]],
    *,
    what: str = "",
) -> tuple[str, _Done]:
    """Make a call to a workflow.

    Args:
        actor: Who acts.
        workflow_id: Its ID.
        run_id: Its run; None means the latest.
        call: The call.
        what: What of the workflow the call is about, for the error: `query 'status'`.

    Returns:
        The ID that the server knows it by, and what the call returned.

    Raises:
        ExecutionNotFoundError: The server does not know it.
        CallFailedError: The server or the workflow refused.
    """

    async def called(client: Client) -> tuple[str, _Done]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        return handle.id, await call(handle)

    workflow = f"workflow {workflow_id!r}"
    return perform(actor, called, f"{what} of {workflow}" if what else workflow)


def reason(error: BaseException) -> str:
    """Why a workflow, query or update failed: the message of every cause, the deepest last."""
    told: list[str] = []
    found: BaseException | None = error.__cause__ or error
    while found is not None:
        kind = getattr(found, "type", None) or type(found).__name__
        message = getattr(found, "message", None) or str(found)
        told.append(f"{kind}: {message}" if message else str(kind))
        found = found.__cause__
    return ", because of ".join(told)


Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="JSON",
        help="An argument as JSON, @FILE with one, or - for standard input; may be repeated.",
    ),
]


def parse_inputs(texts: Sequence[str] | None) -> list[Any]:
    """Read the arguments of a call.

    Args:
        texts: What was given for `--input`.

    Returns:
        The arguments.

    Raises:
        typer.BadParameter: A text is not JSON, or a file cannot be read.
    """
    return [_parse(text) for text in texts or ()]


def as_json(value: Any) -> str:
    """A value on one line, as JSON; what JSON cannot say is shown as text."""
    return plain(json.dumps(value, ensure_ascii=False, default=str))


def since(start: datetime, end: datetime | None) -> str:
    """How long something took, in words that are short; empty where it runs still."""
    return "" if end is None else lasting(end - start)


def lasting(duration: timedelta) -> str:
    """A duration with the unit that suits it."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))


def _parse(text: str) -> Any:
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
        shown = "what came in" if text == "-" else repr(text)
        msg = f"{shown} is no JSON ({error}): a text needs quotes, '\"like this\"'"
        raise typer.BadParameter(msg) from error
