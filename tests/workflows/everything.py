"""A workflow that makes every kind of call that a tenant must follow, and reports what each saw."""

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import Priority

from orkestra import TenantMismatchError, current_tenant, tenant_scope

SECONDS = timedelta(seconds=60)


@activity.defn
async def seen_by_async_activity() -> str | None:
    await asyncio.sleep(0)
    return current_tenant()


@activity.defn
def seen_by_thread() -> str | None:
    return current_tenant()


@activity.defn
def seen_by_nested_thread() -> str | None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(current_tenant).result() is None
    return current_tenant()


@activity.defn
async def priority_of_activity() -> tuple[int | None, str | None]:
    priority = activity.info().priority
    return priority.priority_key, priority.fairness_key


@workflow.defn
class Child:
    def __init__(self) -> None:
        self.signals: list[str | None] = []

    @workflow.run
    async def run(self, wait: bool = False) -> dict[str, Any]:
        await workflow.wait_condition(lambda: not wait or bool(self.signals))
        return {
            "id": workflow.info().workflow_id,
            "tenant": current_tenant(),
            "fairness_key": workflow.info().priority.fairness_key,
            "signals": self.signals,
        }

    @workflow.signal
    def poke(self) -> None:
        self.signals.append(current_tenant())


@activity.defn
async def tenants_of_a_fresh_context() -> list[str | None]:
    client = activity.client()

    async def look() -> list[str | None]:
        assert current_tenant() is None
        own = await client.get_workflow_handle("looks").describe()
        with tenant_scope("another"):
            try:
                await client.get_workflow_handle("looks").describe()
            except TenantMismatchError as error:
                return [own.id.partition(":")[0], type(error).__name__]
        return [own.id, None]

    return await asyncio.create_task(look(), context=contextvars.Context())


@workflow.defn
class LooksAround:
    @workflow.run
    async def run(self) -> list[str | None]:
        return await workflow.execute_activity(
            tenants_of_a_fresh_context, start_to_close_timeout=SECONDS
        )


@dataclass
class Seen:
    """What each kind of call saw, by its name."""

    tenants: dict[str, str | None] = field(default_factory=dict)
    child: dict[str, Any] = field(default_factory=dict)
    urgent: tuple[int | None, str | None] = (None, None)


@workflow.defn
class Everything:
    @workflow.init
    def __init__(self, runs: int = 1, poke: str | None = None) -> None:
        self.signals: list[str | None] = []
        self.updates: list[str | None] = []

    @workflow.run
    async def run(self, runs: int = 1, poke: str | None = None) -> Seen:
        if runs > 1:
            workflow.continue_as_new(args=[runs - 1, poke])
        seen = Seen()
        seen.tenants["workflow"] = current_tenant()
        for function in (seen_by_async_activity, seen_by_thread, seen_by_nested_thread):
            seen.tenants[function.__name__] = await workflow.execute_activity(
                function, start_to_close_timeout=SECONDS
            )
        seen.tenants["local activity"] = await workflow.execute_local_activity(
            seen_by_async_activity, start_to_close_timeout=SECONDS
        )
        seen.urgent = await workflow.execute_activity(
            priority_of_activity,
            start_to_close_timeout=SECONDS,
            priority=Priority(priority_key=1, fairness_key="someone", fairness_weight=1000),
        )
        child = await workflow.start_child_workflow(Child.run, id=f"{workflow.uuid4()}")
        seen.child = await child
        if poke is not None:
            await workflow.get_external_workflow_handle(poke).signal(Child.poke)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._in_a_task())
        seen.tenants["task"] = task.result()
        return seen

    async def _in_a_task(self) -> str | None:
        await asyncio.sleep(0.001)
        return current_tenant()


@workflow.defn
class Mailbox:
    """Waits to be told to stop, and reports everything that reached it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None]] = []
        self.is_done = False

    @workflow.run
    async def run(self) -> list[tuple[str, str | None]]:
        await workflow.wait_condition(lambda: self.is_done)
        return self.received

    @workflow.signal
    def note(self, text: str) -> None:
        self.received.append((f"signal {text}", current_tenant()))

    @workflow.signal
    def finish(self) -> None:
        self.is_done = True

    @workflow.query
    def count(self) -> tuple[int, str | None]:
        return len(self.received), current_tenant()

    @workflow.update
    async def add(self, text: str) -> str | None:
        self.received.append((f"update {text}", current_tenant()))
        return current_tenant()

    @workflow.update
    async def add_checked(self, text: str) -> str | None:
        self.received.append((f"update {text}", current_tenant()))
        return current_tenant()

    @add_checked.validator
    def _check(self, text: str) -> None:
        if current_tenant() is None:
            raise ValueError(text)


WORKFLOWS = [Child, Everything, LooksAround, Mailbox]
ACTIVITIES = [
    priority_of_activity,
    seen_by_async_activity,
    seen_by_nested_thread,
    seen_by_thread,
    tenants_of_a_fresh_context,
]
