"""Global IDs: IDs carry no tenant, and still no tenant reaches another's work.

Another tenant's workflow must look like one that does not exist: each attack is made on a foreign
ID and on one that nobody has, and both must be answered alike.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeWorkflowExecutionRequest,
    PauseWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateStage,
)
from temporalio.common import (
    ActivityIDConflictPolicy,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    ApplicationError,
    CancelledError,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode, ServiceClient
from temporalio.worker import Worker

from orkestra import (
    ALL_TENANTS,
    ForbiddenOperationError,
    OrkestraConfig,
    OrkestraPlugin,
    TenancySettings,
    TenantRequiredError,
)
from tests.support.names import Fresh
from tests.support.waiting import PATIENTLY, until
from tests.workflows.global_ids import WORKFLOWS, CancelsByGlobalId, TerminatesByChild, Waits
from tests.workflows.placed import where

CONFIG = OrkestraConfig(tenancy=TenancySettings(workflow_ids="global"))


class Counting(ServiceClient):
    """Counts requests, and can let something happen right before one is sent."""

    def __init__(self, inner: ServiceClient) -> None:
        super().__init__(inner.config)
        self.inner = inner
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}

    @property
    def worker_service_client(self) -> Any:
        return self.inner.worker_service_client

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None: ...

    def update_api_key(self, api_key: str | None) -> None: ...

    async def _rpc_call(self, rpc: str, req: Message, resp_type: type[Any], **options: Any) -> Any:
        self.calls.append(rpc)
        if rpc in self.before:
            await self.before.pop(rpc)()
        return await self.inner._rpc_call(rpc, req, resp_type, **options)


class House:
    def __init__(self, raw: Client, fresh: Fresh) -> None:
        self.raw = raw
        self.fresh = fresh
        self.queue = fresh.task_queue()
        self.wire = Counting(raw.service_client)
        self.names = fresh.tenant("acme"), fresh.tenant("beta")
        self.acme, self.beta = [self.client(name) for name in self.names]

    def client(self, tenant: Any) -> Client:
        return Client(self.wire, plugins=[OrkestraPlugin(CONFIG, tenant=tenant)])

    def id(self, name: str = "order") -> str:
        return self.fresh.workflow_id(name)

    async def start(self, client: Client, name: str = "order", **options: Any) -> Any:
        return await client.start_workflow(
            Waits.run, 1, id=self.id(name), task_queue=self.queue, **options
        )


@pytest.fixture(params=[1000, 0], ids=["cached", "replayed"])
async def house(request, raw_client, fresh) -> AsyncIterator[House]:
    made = House(raw_client, fresh)
    async with Worker(
        made.client(None),
        task_queue=made.queue,
        workflows=WORKFLOWS,
        activities=[where],
        max_cached_workflows=request.param,
    ):
        yield made


once = pytest.mark.parametrize("house", [1000], indirect=True)


async def refusal(call: Awaitable[object], *names: str) -> str:
    """The error that a caller gets for a missing execution, without the names it gave."""
    with pytest.raises(RPCError) as caught:
        await call
    assert caught.value.status is RPCStatusCode.NOT_FOUND
    text = f"{caught.value.message} {caught.value.raw_grpc_status!r}"
    for name in names:
        text = text.replace(name, "")
    return text


async def test_ids_stay_as_given_and_every_call_reaches_the_callers_own_work(house):
    handle = await house.start(house.acme)
    assert handle.id == house.id()
    by_id = house.acme.get_workflow_handle_for(Waits.run, house.id())
    for each in (handle, by_id):
        assert (await each.describe()).status is WorkflowExecutionStatus.RUNNING
        assert await each.query(Waits.asked) == ""
        assert len((await each.fetch_history()).events) > 1
    update = await by_id.start_update(
        Waits.told, "again", wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    polled = by_id.get_update_handle(update.id, workflow_run_id=update.workflow_run_id)
    assert await polled.result() == "again"
    waiting = asyncio.create_task(by_id.result())
    await by_id.signal(Waits.tell, "done")
    assert await waiting == "done 2"


@once
async def test_another_tenants_workflow_looks_like_one_that_does_not_exist(house):
    victim = await house.start(house.beta)
    absent = house.id("nobody")

    def attacks(name: str) -> list[Awaitable[object]]:
        handle = house.acme.get_workflow_handle(name)
        pinned = house.acme.get_workflow_handle(name, run_id=victim.first_execution_run_id)
        chained = house.acme.get_workflow_handle(
            name, first_execution_run_id=victim.first_execution_run_id
        )
        return [
            call()
            for each in (handle, pinned, chained)
            for call in (
                each.cancel,
                each.terminate,
                each.describe,
                each.fetch_history,
                each.result,
                lambda each=each: each.signal(Waits.tell, "x"),
                lambda each=each: each.query(Waits.asked),
                lambda each=each: each.execute_update(Waits.told, "x"),
                lambda each=each: each.get_update_handle("u").result(),
            )
        ]

    for foreign, missing in zip(attacks(victim.id), attacks(absent), strict=True):
        told = await refusal(foreign, victim.id)
        assert told == await refusal(missing, absent)
        assert house.names[1] not in told
    assert await victim.query(Waits.asked) == ""
    await victim.terminate()


@once
async def test_raw_requests_find_no_other_tenants_work(house):
    victim = await house.start(house.beta)
    execution = WorkflowExecution(workflow_id=victim.id)
    service = house.acme.workflow_service
    names = {"namespace": "default"}
    attacks = [
        service.terminate_workflow_execution(
            TerminateWorkflowExecutionRequest(workflow_execution=execution, **names)
        ),
        service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(workflow_execution=execution, **names)
        ),
        service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(execution=execution, **names)
        ),
        service.pause_workflow_execution(
            PauseWorkflowExecutionRequest(workflow_id=victim.id, **names)
        ),
        service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                workflow_execution=execution, workflow_task_finish_event_id=3, **names
            )
        ),
    ]
    for attack in attacks:
        await refusal(attack)
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()


@once
async def test_a_workflow_started_without_a_tenant_belongs_to_none(house):
    old = await house.raw.start_workflow(Waits.run, 1, id=house.id("old"), task_queue="nobody")
    await refusal(house.acme.get_workflow_handle(old.id).terminate())
    operator = house.client(ALL_TENANTS)
    await operator.get_workflow_handle(old.id).terminate()
    with pytest.raises(TenantRequiredError):
        await house.client(None).get_workflow_handle(old.id).describe()


@once
async def test_an_id_that_another_tenant_reuses_during_the_call_is_not_reached(house):
    """acme's workflow ends, and beta starts one under the same ID, between check and request."""
    for rpc, attack in (
        ("request_cancel_workflow_execution", lambda handle: handle.cancel()),
        ("terminate_workflow_execution", lambda handle: handle.terminate()),
        ("update_workflow_execution", lambda handle: handle.execute_update(Waits.told, "x")),
        ("signal_workflow_execution", lambda handle: handle.signal(Waits.tell, "x")),
        ("query_workflow", lambda handle: handle.query(Waits.asked)),
    ):
        own = await house.start(house.acme, rpc)
        assert await own.query(Waits.asked) == ""

        async def swap(own: WorkflowHandle[Any, Any] = own, name: str = rpc) -> None:
            raw = house.raw.get_workflow_handle(own.id)
            await raw.terminate()
            await house.start(house.beta, name)

        house.wire.before[rpc] = swap
        handle = house.acme.get_workflow_handle_for(Waits.run, own.id)
        if rpc == "query_workflow":  # a closed workflow answers queries, so this reaches acme's own
            assert await attack(handle) == ""
        else:
            await refusal(attack(handle))
        victim = house.beta.get_workflow_handle_for(Waits.run, own.id)
        assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
        assert await victim.query(Waits.asked) == ""
        await refusal(house.acme.get_workflow_handle(own.id).describe())
        await victim.terminate()


@once
async def test_a_call_during_continue_as_new_reaches_the_new_run(house):
    """The run that was checked continues as new right before the request is sent."""
    own = await house.start(house.acme)
    raw = house.raw.get_workflow_handle(own.id)
    first = (await raw.describe()).run_id

    async def overtake() -> None:
        await own.signal(Waits.tell, "again")

        async def is_overtaken() -> bool:
            return (await raw.describe()).run_id != first

        await until(is_overtaken)

    house.wire.before["query_workflow"] = overtake
    by_id = house.acme.get_workflow_handle_for(Waits.run, own.id)
    assert await by_id.query(Waits.asked) == "again", "a closed run still answers queries"
    house.wire.before["request_cancel_workflow_execution"] = overtake
    first = (await raw.describe()).run_id
    await by_id.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await own.result()
    assert isinstance(caught.value.cause, CancelledError)


@once
async def test_a_signal_during_continue_as_new_reaches_the_new_run(house):
    own = await house.start(house.acme)
    raw = house.raw.get_workflow_handle(own.id)
    first = (await raw.describe()).run_id
    forged = own.signal(Waits.tell, "again")

    async def overtake() -> None:
        await forged

        async def is_overtaken() -> bool:
            return (await raw.describe()).run_id != first

        await until(is_overtaken)

    house.wire.before["signal_workflow_execution"] = overtake
    await house.acme.get_workflow_handle_for(Waits.run, own.id).signal(Waits.tell, "done")
    assert await own.result() == "done 2"


@once
async def test_b09_no_conflict_policy_attaches_to_or_ends_another_tenants_workflow(house):
    victim = await house.start(house.beta)

    async def taken(call: Awaitable[object]) -> None:
        with pytest.raises((WorkflowAlreadyStartedError, RPCError)) as caught:
            await call
        error = caught.value
        assert victim.first_execution_run_id not in repr(vars(error))
        if isinstance(error, RPCError):
            assert error.status is RPCStatusCode.ALREADY_EXISTS
            assert victim.first_execution_run_id.encode() not in error.raw_grpc_status

    await taken(house.start(house.acme))
    use_existing = WorkflowIDConflictPolicy.USE_EXISTING
    await taken(house.start(house.acme, id_conflict_policy=use_existing))
    await taken(house.start(house.acme, start_signal="tell", start_signal_args=["x"]))
    operation = WithStartWorkflowOperation(
        Waits.run, 1, id=victim.id, task_queue=house.queue, id_conflict_policy=use_existing
    )
    await taken(
        house.acme.execute_update_with_start_workflow(
            Waits.told, "x", start_workflow_operation=operation
        )
    )
    await taken(operation.workflow_handle())
    for options in (
        {"id_conflict_policy": WorkflowIDConflictPolicy.TERMINATE_EXISTING},
        {"id_reuse_policy": WorkflowIDReusePolicy.TERMINATE_IF_RUNNING},
    ):
        with pytest.raises(ForbiddenOperationError, match="would terminate"):
            await house.start(house.acme, **options)
    assert await victim.query(Waits.asked) == ""
    await victim.terminate()


@once
async def test_b09_a_start_that_loses_to_another_tenant_returns_no_handle(house):
    """beta starts under the ID right before acme's request to use whatever exists."""
    use_existing = WorkflowIDConflictPolicy.USE_EXISTING
    house.wire.before["start_workflow_execution"] = lambda: house.start(house.beta)
    with pytest.raises(WorkflowAlreadyStartedError) as caught:
        await house.start(house.acme, id_conflict_policy=use_existing)
    assert not caught.value.run_id
    house.wire.before["signal_with_start_workflow_execution"] = lambda: house.start(
        house.beta, "signalled"
    )
    with pytest.raises((WorkflowAlreadyStartedError, RPCError)):
        await house.start(house.acme, "signalled", start_signal="tell", start_signal_args=["x"])
    for name in ("order", "signalled"):
        victim = house.beta.get_workflow_handle_for(Waits.run, house.id(name))
        assert await victim.query(Waits.asked) == ""
        await victim.terminate()


@once
async def test_a_start_can_attach_to_the_callers_own_workflow(house):
    own = await house.start(house.acme)
    again = await house.start(house.acme, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    assert again.result_run_id == own.result_run_id
    with pytest.raises(WorkflowAlreadyStartedError) as caught:
        await house.start(house.acme)
    assert caught.value.run_id == own.result_run_id
    await house.start(house.acme, start_signal="tell", start_signal_args=["done"])
    assert await own.result() == "done 1"


@once
async def test_another_tenants_schedule_looks_like_one_that_does_not_exist(house):
    action = ScheduleActionStartWorkflow(Waits.run, 1, id=house.id("s"), task_queue=house.queue)
    plan = Schedule(action, ScheduleSpec())
    victim = await house.beta.create_schedule(house.id("s"), plan)
    own = await house.acme.create_schedule(house.id("own"), plan)
    assert victim.id == house.id("s")

    def attacks(name: str) -> list[Awaitable[object]]:
        handle = house.acme.get_schedule_handle(name)
        return [
            handle.describe(),
            handle.pause(),
            handle.unpause(),
            handle.trigger(),
            handle.update(lambda _: None),
            handle.delete(),
        ]

    absent = house.id("nobody")
    for foreign, missing in zip(attacks(victim.id), attacks(absent), strict=True):
        assert await refusal(foreign, victim.id) == await refusal(missing, absent)
    await own.pause()
    assert (await own.describe()).schedule.state.paused
    assert not (await victim.describe()).schedule.state.paused
    await own.delete()
    await victim.delete()


@once
async def test_another_tenants_activity_looks_like_one_that_does_not_exist(house):
    options: dict[str, Any] = {"task_queue": "nobody", "start_to_close_timeout": PATIENTLY}
    victim = await house.beta.start_activity(where, id=house.id("a"), **options)

    def attacks(name: str) -> list[Awaitable[object]]:
        handle = house.acme.get_activity_handle(name)
        by_id = house.acme.get_async_activity_handle(
            workflow_id=None, run_id=None, activity_id=name
        )
        return [
            handle.describe(),
            handle.cancel(),
            handle.terminate(),
            handle.result(),
            by_id.complete("forged"),
            by_id.heartbeat(),
        ]

    absent = house.id("nobody")
    for foreign, missing in zip(attacks(victim.id), attacks(absent), strict=True):
        assert await refusal(foreign, victim.id) == await refusal(missing, absent)
    for policy in (ActivityIDConflictPolicy.FAIL, ActivityIDConflictPolicy.USE_EXISTING):
        with pytest.raises(ActivityAlreadyStartedError) as caught:
            await house.acme.start_activity(
                where, id=victim.id, id_conflict_policy=policy, **options
            )
        assert not caught.value.run_id
    await victim.terminate()
    result = await house.acme.execute_activity(
        where, id=house.id("own"), task_queue=house.queue, start_to_close_timeout=PATIENTLY
    )
    assert result["queue"] == house.queue


@once
async def test_an_activity_of_another_tenants_workflow_cannot_be_completed(house):
    victim = await house.start(house.beta)
    for name, run in ((victim.id, None), (victim.id, victim.first_execution_run_id)):
        handle = house.acme.get_async_activity_handle(workflow_id=name, run_id=run, activity_id="1")
        await refusal(handle.complete("forged"), name)
        await refusal(handle.heartbeat(), name)
    await victim.terminate()


async def test_a_workflow_can_cancel_only_workflows_of_its_tenant(house):
    own, victim = await house.start(house.acme, "own"), await house.start(house.beta, "victim")
    for number, target in enumerate((victim.id, house.id("nobody"))):
        handle = await house.acme.start_workflow(
            CancelsByGlobalId.run, target, id=house.id(f"c{number}"), task_queue=house.queue
        )
        assert "not found" in await handle.result()
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    handle = await house.acme.start_workflow(
        CancelsByGlobalId.run, own.id, id=house.id("c"), task_queue=house.queue
    )
    assert await handle.result() == "cancelled"
    with pytest.raises(WorkflowFailureError) as caught:
        await own.result()
    assert isinstance(caught.value.cause, CancelledError)
    await victim.terminate()


async def test_b09_a_child_cannot_terminate_a_workflow_with_its_id(house):
    victim = await house.start(house.beta)
    handle = await house.acme.start_workflow(
        TerminatesByChild.run, victim.id, id=house.id("t"), task_queue=house.queue
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "TenantMismatch"
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()


@once
async def test_lists_and_counts_show_the_callers_own_rows(house):
    for client, name in ((house.acme, "one"), (house.acme, "two"), (house.beta, "three")):
        await house.start(client, name)
    query = f"TaskQueue = '{house.queue}'"

    async def are_listed() -> bool:
        return (await house.raw.count_workflows(query)).count == 3

    await until(are_listed)
    assert {each.id async for each in house.acme.list_workflows(query)} == {
        house.id("one"),
        house.id("two"),
    }
    assert (await house.beta.count_workflows()).count == 1
    for name in ("one", "two", "three"):
        await house.raw.get_workflow_handle(house.id(name)).terminate()


@once
async def test_a_known_owner_is_not_looked_up_again(house):
    handle = await house.start(house.acme)
    house.wire.calls.clear()
    for _ in range(3):
        await handle.signal(Waits.tell, "")
    assert house.wire.calls.count("get_workflow_execution_history") == 1
    assert house.wire.calls.count("describe_workflow_execution") == 3
    house.wire.calls.clear()
    await handle.cancel()
    assert house.wire.calls == ["request_cancel_workflow_execution"]
