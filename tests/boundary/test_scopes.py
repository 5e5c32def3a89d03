"""Tenants of clients, handles and task code, while several tenants are interleaved."""

import asyncio
import contextvars
import copy
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nexusrpc.handler
import pytest
from temporalio import activity, nexus
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra import (
    ALL_TENANTS,
    ForbiddenOperationError,
    OrkestraConfig,
    OrkestraPlugin,
    TenantMismatchError,
    TenantRequiredError,
    tenant_scope,
)
from orkestra.config import LangfuseSettings
from orkestra.directory import Placements
from orkestra.errors import TenantError
from orkestra.temporal.guard.table import RPCS
from orkestra.temporal.plugin import plugin_of
from orkestra.tenancy import act_for
from tests.support.guarded_clients import SOON, GuardDesk
from tests.support.names import Fresh
from tests.workflows.everything import Mailbox
from tests.workflows.nexus_caller import Caller, Desk


async def test_b07_interleaved_handles_of_one_scope_reach_nothing_of_another(raw_client, fresh):
    """One client without tenant, and every handle tried in every scope, all at once."""
    desk = GuardDesk(raw_client, fresh)
    tenants = [fresh.tenant(f"t{number}") for number in range(8)]
    async with desk.worker():
        handles = {}
        for tenant in tenants:
            with tenant_scope(tenant):
                handles[tenant] = await desk.unbound.start_workflow(
                    Mailbox.run, id="box", task_queue=desk.queue
                )

        async def use(owner: str, user: str) -> tuple[str, str, str | None]:
            await asyncio.sleep(0)
            with tenant_scope(user):
                try:
                    return owner, user, (await handles[owner].query(Mailbox.count))[1]
                except RPCError as error:
                    return owner, user, None if "not found" in error.message else error.message

        pairs = [(owner, user) for owner in tenants for user in tenants]
        for owner, user, seen in await asyncio.gather(*(use(*pair) for pair in pairs)):
            assert seen == (owner if owner == user else None)
        for handle in handles.values():
            with pytest.raises(TenantRequiredError):
                await handle.describe()
            await raw_client.get_workflow_handle(handle.id).terminate()


async def test_b07_a_handle_made_by_id_refers_to_the_tenants_own_workflow(raw_client, fresh):
    desk = GuardDesk(raw_client, fresh)
    async with desk.worker():
        await desk.mailbox(desk.beta, "box")
        with tenant_scope(desk.acme):
            handle = desk.unbound.get_workflow_handle(fresh.workflow_id("box"))
        with tenant_scope(desk.beta):
            assert (await handle.describe()).id == f"{desk.beta}:{handle.id}"
            await handle.terminate()
        with tenant_scope(desk.acme), pytest.raises(RPCError, match="not found"):
            await handle.describe()


async def test_b07_every_copy_of_a_client_enforces_its_tenant(attack):
    acme, target = attack.acme, attack.target.id
    service = acme.service_client
    config = acme.config()
    hollow = object.__new__(type(service))
    vars(hollow).update(vars(service))
    for client in (
        copy.copy(acme),
        Client(copy.copy(service)),
        Client(hollow),
        Client(**config),
        Client(**acme.config(active_config=True)),
        Client(**{**config, "plugins": []}),
        Client(**{**config, "plugins": [OrkestraPlugin()]}),
        Client(service, plugins=[OrkestraPlugin()]),
    ):
        for method in ("describe", "terminate", "cancel", "fetch_history"):
            with pytest.raises((TenantError, RPCError)) as caught:
                await getattr(client.get_workflow_handle(target), method)()
            if isinstance(caught.value, RPCError):
                assert "not found" in caught.value.message
    for tenant in (attack.desk.beta, ALL_TENANTS):
        with pytest.raises(TenantMismatchError):
            Client(service, plugins=[OrkestraPlugin(tenant=tenant)])
    for thing in (acme, service):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


async def test_b07_empty_requests_of_all_rpcs_reveal_nothing_of_other_tenants(attack):
    """Requests with the namespace alone, which a plain server answers for all that is in it."""
    answered: dict[str, str] = {}
    for rpc in RPCS:
        request = getattr(api, "".join(map(str.title, rpc.split("_"))) + "Request")
        fields = (
            {"namespace": "default"} if "namespace" in request.DESCRIPTOR.fields_by_name else {}
        )
        try:
            answered[rpc] = str(await getattr(attack.service, rpc)(request(**fields)))
        except (TenantError, RPCError):
            continue
    assert {rpc for rpc in answered if not rpc.startswith(("list_", "count_"))} == {
        "describe_namespace",
        "get_cluster_info",
        "get_system_info",
    }
    assert not [rpc for rpc, answer in answered.items() if attack.desk.beta in answer]


class Chameleon(str):
    """Text that compares itself equal to any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return hash("default")


async def test_b07_a_string_that_equals_every_other_is_refused_as_tenant_and_namespace(attack):
    plugin, beta = plugin_of(attack.acme), Chameleon(attack.desk.beta)
    with pytest.raises(TenantMismatchError):
        plugin.for_tenant(beta)
    assert type(OrkestraPlugin(tenant=beta).tenant) is str
    with pytest.raises(TenantMismatchError):
        attack.acme.service_client.rebound(
            tenant=beta, namespace="default", placements=Placements()
        )
    with pytest.raises(TenantMismatchError):
        Client(**{**attack.acme.config(), "namespace": Chameleon("second")})
    with tenant_scope(attack.desk.acme), pytest.raises(TenantMismatchError):
        attack.desk.client(beta)


async def test_b08_a_bound_plugin_exposes_neither_configuration_nor_directory(attack):
    """The plugin is in the configuration of the client that a tenant's code gets."""
    plugin = plugin_of(attack.acme)
    for read in (lambda: plugin.config, lambda: plugin.placements):
        with pytest.raises(ForbiddenOperationError):
            read()
    for tenant in (None, attack.desk.beta, ALL_TENANTS):
        with pytest.raises(TenantMismatchError):
            plugin.for_tenant(tenant)
    assert plugin.for_tenant(attack.desk.acme).tenant == attack.desk.acme


async def test_b08_a_clients_interceptors_cannot_change_state_that_workers_share(attack):
    for interceptor in attack.acme.config(active_config=True)["interceptors"]:
        public = [name for name in vars(interceptor) if not name.startswith("_")]
        assert public == []


async def test_b08_a_clients_interceptors_expose_nothing_that_workers_share(raw_client):
    """Workers' interceptors would expose the destination of every tenant's spans."""
    langfuse = LangfuseSettings(public_key="pk-lf-1", secret_key="sk-lf-1")
    plugin = OrkestraPlugin(OrkestraConfig(langfuse=langfuse))
    bound = Client(raw_client.service_client, plugins=[plugin.for_tenant("acme")])
    interceptors = bound.config(active_config=True)["interceptors"]
    assert len(interceptors) == 2
    for interceptor in interceptors:
        public = [name for name in dir(interceptor) if not name.startswith("_")]
        assert public == ["intercept_client"]


Attempt = Callable[[Client], Awaitable[Any]]


class Hostile:
    """Tries of task code to leave its tenant with the client that it gets; notes what succeeded."""

    def __init__(self, desk: GuardDesk, target: str) -> None:
        self.desk, self.target = desk, target
        self.found: list[str] = []

    async def attack(self, client: Client) -> None:
        await self._in_this_context(client)
        made_from = client.config()["service_client"]
        for each in (client, Client(made_from), Client(**client.config())):
            await asyncio.create_task(self._elsewhere(each), context=contextvars.Context())
        thread = threading.Thread(target=lambda: asyncio.run(self._elsewhere(client)))
        thread.start()
        await asyncio.to_thread(thread.join)

    async def _in_this_context(self, client: Client) -> None:
        for tenant in (self.desk.beta, ALL_TENANTS):
            self._must_refuse(f"a client of {tenant}", lambda t=tenant: self.desk.client(t))
        self._must_refuse("a scope", lambda: tenant_scope(self.desk.beta).__enter__())
        for method in ("describe", "terminate", "fetch_history"):
            await self._must_miss(getattr(client.get_workflow_handle(self.target), method)())

    async def _elsewhere(self, client: Client) -> None:
        """Outside of the task's context only the client knows the tenant."""
        for enter in (None, self.desk.beta):
            act_for(enter)
            for method in ("describe", "terminate", "fetch_history"):
                await self._must_miss(getattr(client.get_workflow_handle(self.target), method)())
            await self._list(client)
        act_for(None)
        self._must_refuse("a worker", lambda: client.service_client.worker_service_client)

    async def _list(self, client: Client) -> None:
        try:
            rows = [row.id async for row in client.list_workflows()]
        except TenantMismatchError:
            return
        if any(not row.startswith(f"{self.desk.acme}:") for row in rows):
            self.found.append(f"rows {rows}")

    def _must_refuse(self, what: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except TenantError:
            return
        self.found.append(what)

    async def _must_miss(self, call: Awaitable[Any]) -> None:
        try:
            await call
        except TenantError:
            return
        except RPCError as error:
            if "not found" in error.message:
                return
        self.found.append(f"{call}")


async def test_b08_an_activitys_client_stays_bound_outside_of_its_context(attack, fresh):
    hostile = Hostile(attack.desk, attack.target.id)

    @activity.defn
    async def attacking() -> None:
        await hostile.attack(activity.client())

    queue = fresh.task_queue("hostile")
    async with Worker(attack.desk.unbound, task_queue=queue, activities=[attacking]):
        await attack.acme.execute_activity(
            attacking, id="h", task_queue=queue, start_to_close_timeout=SOON
        )
    assert hostile.found == []


@pytest.fixture
async def endpoint(raw_client: Client, fresh: Fresh) -> AsyncIterator[str]:
    name = f"endpoint-{fresh.suffix}"
    target = EndpointTarget.Worker(namespace="default", task_queue=fresh.task_queue("hostile"))
    await raw_client.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(
            spec=EndpointSpec(name=name, target=EndpointTarget(worker=target))
        )
    )
    return name


async def test_b08_a_nexus_handlers_client_stays_bound_outside_of_its_context(
    attack, fresh, endpoint
):
    hostile = Hostile(attack.desk, attack.target.id)

    @nexusrpc.handler.service_handler(service=Desk)
    class Handler:
        @nexusrpc.handler.sync_operation
        async def backed(self, _: nexusrpc.handler.StartOperationContext, text: str) -> str:
            await hostile.attack(nexus.client())
            return text

        @nexusrpc.handler.sync_operation
        async def meddling(self, _: nexusrpc.handler.StartOperationContext, text: str) -> str:
            return text

    queue = fresh.task_queue("hostile")
    async with Worker(
        attack.desk.unbound,
        task_queue=queue,
        workflows=[Caller],
        nexus_service_handlers=[Handler()],
    ):
        answer = await attack.acme.execute_workflow(
            Caller.run, args=[endpoint, "backed"], id="c", task_queue=queue
        )
    assert answer == "done"
    assert hostile.found == []
