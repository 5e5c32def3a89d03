"""One tenant's side of a cell; each cell runs twice at once, with the roles exchanged."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pytest
from temporalio.client import (
    Client,
    Interceptor,
    WorkflowExecutionStatus,
    WorkflowHandle,
)
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError

from orkestra import OrkestraPlugin, TenantMismatchError, TenantRequiredError, tenant_scope
from tests.support.forged_headers import Forging
from tests.workflows.everything import Mailbox

TENANT_ID: Final = SearchAttributeKey.for_keyword("tenantId")

Answer = TypeVar("Answer")


def attribute(tenant: str) -> TypedSearchAttributes:
    """The tenant as the server lists it."""
    return TypedSearchAttributes([SearchAttributePair(TENANT_ID, tenant)])


@dataclass(frozen=True, repr=False)
class Side:
    """One of two tenants, its rival, and the queues that workers of Orkestra and others poll."""

    raw: Client
    plugin: OrkestraPlugin
    tenant: str
    rival: str
    queue: str
    foreign_queue: str
    endpoint: str
    suffix: str = field(default_factory=lambda: uuid.uuid4().hex[:10])

    def bound(self, tenant: str | None, *interceptors: Interceptor) -> Client:
        """A client of the tenant, with interceptors of the user's before ours."""
        return Client(
            self.raw.service_client,
            plugins=[self.plugin.for_tenant(tenant)],
            interceptors=interceptors,
        )

    @property
    def client(self) -> Client:
        return self.bound(self.tenant)

    @property
    def rivals_client(self) -> Client:
        return self.bound(self.rival)

    @property
    def unbound(self) -> Client:
        return self.bound(None)

    @property
    def forging(self) -> Client:
        """A client without Orkestra that names the rival in its headers."""
        return Client(self.raw.service_client, interceptors=[Forging(self.rival)])

    def name(self, what: str = "w") -> str:
        """An ID as the tenant calls it; both sides call theirs alike."""
        return f"{what}-{self.suffix}"

    def own(self, name: str) -> str:
        """The same ID, as on the server."""
        return f"{self.tenant}:{name}"

    def at_server(self, name: str) -> WorkflowHandle[Any, Any]:
        """A handle without Orkestra to the tenant's workflow."""
        return self.raw.get_workflow_handle(self.own(name))

    async def absent(self, server_id: str) -> None:
        """Assert that there is no workflow of this ID."""
        with pytest.raises(RPCError, match="not found"):
            await self.raw.get_workflow_handle(server_id).describe()

    @asynccontextmanager
    async def mailbox(self, client: Client, name: str) -> AsyncIterator[WorkflowHandle[Any, Any]]:
        """A workflow that waits for messages; still there, and untouched, at the end."""
        handle = await client.start_workflow(Mailbox.run, id=name, task_queue=self.queue)
        try:
            yield handle
            status = (await self.raw.get_workflow_handle(handle.id).describe()).status
            assert status is WorkflowExecutionStatus.RUNNING
        finally:
            await self.raw.get_workflow_handle(handle.id).terminate()


async def refused_without_tenant(side: Side, call: Callable[[Client], Awaitable[object]]) -> None:
    """Assert that a client without tenant refuses a call before it is sent."""
    with pytest.raises(TenantRequiredError, match="needs a tenant"):
        await call(side.unbound)


async def refused_for_two(side: Side, call: Callable[[Client], Awaitable[object]]) -> None:
    """Assert that a tenant's client refuses to act where the code acts for another."""
    with tenant_scope(side.rival), pytest.raises(TenantMismatchError, match=side.rival):
        await call(side.client)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


@contextmanager
def fails(kind: str) -> Iterator[None]:
    """Assert that the code below fails for an error that a worker refused with."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the cause at the end of the chain decides
        yield
    chain = list(causes(caught.value))
    assert kind in {getattr(error, "type", None) for error in chain}, chain


@contextmanager
def not_found() -> Iterator[None]:
    """Assert that the caller is told that nothing of this name exists."""
    with pytest.raises(RPCError, match="not found"):
        yield
