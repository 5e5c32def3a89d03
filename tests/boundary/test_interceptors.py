"""Hostile interceptors on both sides of Orkestra's, on every kind of call."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import nexusrpc.handler
import pytest
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    Plugin,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    ScheduleUpdate,
    WithStartWorkflowOperation,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError
from temporalio.worker import Interceptor as WorkerInterceptor
from temporalio.worker import Worker

from orkestra import ConfigurationError, OrkestraPlugin, current_tenant
from orkestra.errors import TenantError
from tests.matrix.stage import ForgingWorker
from tests.support.guard_attack import Attack
from tests.support.guarded_clients import SOON, GuardDesk, completed_elsewhere
from tests.support.requests import payload
from tests.workflows.everything import Mailbox
from tests.workflows.nexus_caller import Caller, Desk


class Renaming(Interceptor):
    """Writes another tenant into every header, and another's ID over every ID."""

    def __init__(self, tenant: str, target: str | None = None) -> None:
        self.tenant, self.target = tenant, target

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _Renaming(next, self.tenant, self.target)


class _Renaming(OutboundInterceptor):
    def __init__(self, next: OutboundInterceptor, tenant: str, target: str | None) -> None:
        super().__init__(next)
        self.tenant, self.target = tenant, target

    def rename(self, call: Any) -> Any:
        for part in (call, *(getattr(call, name, None) for name in PARTS)):
            if hasattr(part, "headers"):
                part.headers = {**(part.headers or {}), "tenantId": payload(self.tenant)}
            for name in ("id", "activity_id"):
                if self.target is not None and hasattr(part, name):
                    setattr(part, name, self.target)
        return call


PARTS = ("start_workflow_input", "update_workflow_input")


def _renaming(name: str) -> Any:
    def method(self: _Renaming, input: Any) -> Any:
        if name == "create_schedule":
            self.rename(input.schedule.action)
        return getattr(self.next, name)(self.rename(input))

    return method


for _name, _ in inspect.getmembers(OutboundInterceptor, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(_Renaming, _name, _renaming(_name))


class NearerTheWire(Plugin):
    """Adds its interceptor after Orkestra's, as a later plugin can."""

    def __init__(self, interceptor: Interceptor) -> None:
        self.interceptor = interceptor

    def configure_client(self, config: Any) -> Any:
        config["interceptors"] = [*config["interceptors"], self.interceptor]
        return config

    async def connect_service_client(self, config: Any, next: Any) -> Any:
        return await next(config)


Call = Callable[[Client, Attack], Awaitable[Any]]


def _plan(attack: Attack) -> Schedule:
    action = ScheduleActionStartWorkflow(Mailbox.run, id="s", task_queue=attack.desk.queue)
    return Schedule(action, ScheduleSpec())


def _handle(client: Client) -> Any:
    return client.get_workflow_handle("w")


def _with_start(client: Client, attack: Attack) -> Awaitable[Any]:
    start = WithStartWorkflowOperation(
        Mailbox.run,
        id="w",
        task_queue=attack.desk.queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    return client.execute_update_with_start_workflow(
        Mailbox.add, "x", start_workflow_operation=start
    )


CALLS: dict[str, Call] = {
    "start": lambda c, a: c.start_workflow(Mailbox.run, id="w", task_queue=a.desk.queue),
    "signal with start": lambda c, a: c.start_workflow(
        Mailbox.run, id="w", task_queue=a.desk.queue, start_signal="finish"
    ),
    "update with start": _with_start,
    "signal": lambda c, _: _handle(c).signal(Mailbox.finish),
    "query": lambda c, _: _handle(c).query(Mailbox.count),
    "update": lambda c, _: _handle(c).execute_update(Mailbox.add, "x"),
    "describe": lambda c, _: _handle(c).describe(),
    "cancel": lambda c, _: _handle(c).cancel(),
    "terminate": lambda c, _: _handle(c).terminate(),
    "history": lambda c, _: _handle(c).fetch_history(),
    "create schedule": lambda c, a: c.create_schedule("s", _plan(a)),
    "update schedule": lambda c, a: c.get_schedule_handle("s").update(
        lambda _: ScheduleUpdate(_plan(a))
    ),
    "trigger schedule": lambda c, _: c.get_schedule_handle("s").trigger(),
    "pause schedule": lambda c, _: c.get_schedule_handle("s").pause(),
    "delete schedule": lambda c, _: c.get_schedule_handle("s").delete(),
    "start activity": lambda c, a: c.start_activity(
        completed_elsewhere, id="a", task_queue=a.desk.queue, start_to_close_timeout=SOON
    ),
    "describe activity": lambda c, _: c.get_activity_handle("a").describe(),
    "cancel activity": lambda c, _: c.get_activity_handle("a").cancel(),
    "terminate activity": lambda c, _: c.get_activity_handle("a").terminate(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_b15_interceptors_around_orkestras_cannot_change_the_tenant_of_a_call(attack, call):
    """Orkestra refuses or scopes what an earlier one wrote; the guard checks a later one's."""
    desk = attack.desk
    before = desk.client(desk.acme, interceptors=[Renaming(desk.beta, attack.target.id)])
    config = attack.acme.config()
    config["plugins"] = [
        *config["plugins"],
        NearerTheWire(Renaming(desk.beta, attack.target.id)),
    ]
    after = Client(**config)
    for client in (before, after):
        with pytest.raises((TenantError, RPCError)) as caught:
            await CALLS[call](client, attack)
        if isinstance(caught.value, RPCError):
            assert client is before
            assert "not found" in caught.value.message


async def test_b15_a_later_plugin_cannot_see_work_before_it_is_checked(attack, fresh):
    class First(WorkerInterceptor, Interceptor):
        pass

    client = Client(attack.desk.raw.service_client, interceptors=[First()])
    with pytest.raises(ConfigurationError, match="First would see work"):
        Worker(
            client,
            task_queue=fresh.task_queue("w"),
            workflows=[Mailbox],
            plugins=[OrkestraPlugin()],
        )


async def test_b18_calls_cannot_set_metadata_about_the_caller(attack):
    for key in ("Authorization", "CALLER-type", "x-forwarded-for", "temporal-namespace", "cookie"):
        with pytest.raises(TenantError, match="metadata"):
            await attack.acme.get_workflow_handle("w").describe(rpc_metadata={key: "x"})


async def test_b12_nexus_headers_that_differ_by_case_are_dropped(raw_client, fresh):
    """The server forwards either of the two headers, so one call alone could pass by chance."""
    desk = GuardDesk(raw_client, fresh)

    @nexusrpc.handler.service_handler(service=Desk)
    class Handler:
        @nexusrpc.handler.sync_operation
        async def backed(self, _: nexusrpc.handler.StartOperationContext, text: str) -> str:
            return f"{text} for {current_tenant()}"

        @nexusrpc.handler.sync_operation
        async def meddling(self, _: nexusrpc.handler.StartOperationContext, text: str) -> str:
            return text

    queue, endpoint = fresh.task_queue("nexus"), f"endpoint-{fresh.suffix}"
    target = EndpointTarget.Worker(namespace="default", task_queue=queue)
    spec = EndpointSpec(name=endpoint, target=EndpointTarget(worker=target))
    await raw_client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    async with Worker(
        desk.unbound,
        task_queue=queue,
        workflows=[Caller],
        nexus_service_handlers=[Handler()],
        interceptors=[ForgingWorker()],
    ):
        answers = await asyncio.gather(
            *(
                desk.client(desk.acme).execute_workflow(
                    Caller.run,
                    args=[endpoint, "backed"],
                    id=f"c{number}",
                    task_queue=queue,
                    memo={"forged": desk.beta},
                )
                for number in range(12)
            )
        )
    assert answers == [f"done for {desk.acme}"] * 12
