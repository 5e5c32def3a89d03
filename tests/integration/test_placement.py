"""Where tenants' work runs: shared and own queues, own namespaces, and no way into another's."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import nexusrpc.handler
import pytest
from temporalio import nexus
from temporalio.api.enums.v1 import EventType
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import (
    ActivityFailureError,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleSpec,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    UnsandboxedWorkflowRunner,
    Worker,
)

from orkestra import (
    ALL_TENANTS,
    ConfigurationError,
    OrkestraConfig,
    OrkestraPlugin,
    TemporalConnectionManager,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
    create_worker,
    start_workflow,
    tenant_scope,
)
from orkestra.directory import (
    CachedTenantDirectory,
    CallableTenantDirectory,
    StaticTenantDirectory,
    TenantRecord,
    TenantStatus,
)
from orkestra.temporal.worker import create_workers
from tests.support.replaying import replaying
from tests.support.tenants import ForgingWorker, PlacedTenants, failure
from tests.support.waiting import PATIENCE, PATIENTLY, until
from tests.workflows.nexus_caller import Backing, Caller, Desk
from tests.workflows.placed import ACTIVITIES, WORKFLOWS, Sends, Where, where

NOW = datetime.now(UTC)


@pytest.fixture
def placed(dev_server, raw_client, fresh) -> PlacedTenants:
    return PlacedTenants(dev_server.address, raw_client, fresh)


async def test_one_program_serves_every_placement_and_the_starting_code_does_not_change(placed):
    async with (
        TemporalConnectionManager(placed.config, directory=placed.directory) as manager,
        AsyncExitStack() as running,
    ):
        workers = await create_workers(
            task_queue=placed.queue, workflows=WORKFLOWS, activities=ACTIVITIES, manager=manager
        )
        for worker in workers:
            await running.enter_async_context(worker)
        unbound = await manager.get_client()

        async def ran(tenant: str) -> tuple[str, str]:
            handle = await start_workflow(
                unbound, Sends.run, "activity", None, task_queue=placed.queue, tenant=tenant
            )
            assert handle.id.startswith(f"{tenant}:")
            result = await handle.result()
            bound = await manager.get_client(tenant=tenant)
            again = await start_workflow(bound, Where.run, task_queue=placed.queue)
            assert {**result, **await again.result()} == result
            return result["namespace"], result["queue"]

        assert await asyncio.gather(*map(ran, (placed.shared, placed.own, placed.apart))) == [
            ("default", placed.queue),
            ("default", placed.own_queue),
            ("second", placed.queue),
        ]


async def test_a_bound_client_is_a_client_of_its_tenants_namespace_and_of_no_other(placed):
    async with TemporalConnectionManager(placed.config, directory=placed.directory) as manager:
        assert (await manager.get_client(tenant=placed.apart)).namespace == "second"
        assert (await manager.get_client(tenant=placed.shared)).namespace == "default"
        for tenant, namespace in ((placed.apart, "default"), (placed.shared, "second")):
            with pytest.raises(TenantMismatchError, match="is placed in namespace"):
                await manager.get_client(tenant=tenant, namespace=namespace)
        with pytest.raises(UnknownTenantError, match="'nobody'"):
            await manager.get_client(tenant="nobody")
        unbound = await manager.get_client()
        with tenant_scope(placed.apart), pytest.raises(TenantMismatchError, match="'second'"):
            await unbound.start_workflow(Where.run, id=placed.id(), task_queue=placed.queue)


@pytest.mark.parametrize(
    ("tenant", "error"), [("late", TenantSuspendedError), ("", UnknownTenantError)]
)
async def test_no_kind_of_start_leaves_for_an_unknown_or_a_suspended_tenant(placed, tenant, error):
    client = placed.client(placed.late if tenant else "nobody")
    schedule = client.get_schedule_handle("s")
    start = {"id": placed.id(), "task_queue": placed.queue}
    operation = WithStartWorkflowOperation(
        Sends.run,
        args=["activity", None],
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        **start,
    )
    plan = Schedule(action=ScheduleActionStartWorkflow(Where.run, **start), spec=ScheduleSpec())
    attempts = [
        client.start_workflow(Where.run, **start),
        client.start_workflow(Sends.run, args=["activity", None], start_signal="go", **start),
        client.execute_update_with_start_workflow("u", start_workflow_operation=operation),
        client.create_schedule("s", plan),
        schedule.update(lambda _: None),
        schedule.trigger(),
        schedule.unpause(),
        schedule.backfill(ScheduleBackfill(NOW - PATIENTLY, NOW)),
        client.start_activity(where, start_to_close_timeout=PATIENTLY, **start),
    ]
    for attempt in attempts:
        with pytest.raises(error):
            await attempt


async def test_what_runs_of_a_suspended_tenant_can_be_signalled_read_and_cancelled(placed):
    client = placed.client(placed.shared)
    async with placed.worker():
        handle = await client.start_workflow(
            Sends.run, args=["activity", None, None, True], id=placed.id(), task_queue=placed.queue
        )
        assert await handle.query(Sends.told) is False
        placed.records[placed.shared] = TenantRecord(placed.shared, status=TenantStatus.SUSPENDED)
        assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        await handle.signal(Sends.go)
        assert (await handle.result())["queue"] == placed.queue
        assert await handle.query(Sends.told) is True


async def test_b11_no_client_call_names_another_tenants_queue(placed):
    client = placed.client(placed.shared)
    start = {"id": placed.id(), "task_queue": placed.own_queue}
    plan = Schedule(action=ScheduleActionStartWorkflow(Where.run, **start), spec=ScheduleSpec())
    for attempt in (
        client.start_workflow(Where.run, **start),
        client.start_activity(where, start_to_close_timeout=PATIENTLY, **start),
        client.create_schedule("s", plan),
    ):
        with pytest.raises(TenantMismatchError, match=placed.own_queue):
            await attempt


async def test_schedules_and_activities_without_a_workflow_go_to_the_own_queue_too(placed):
    client = placed.client(placed.own)
    action = ScheduleActionStartWorkflow(Where.run, id=placed.id("w"), task_queue=placed.queue)
    schedule = await client.create_schedule(placed.id("s"), Schedule(action, ScheduleSpec()))
    async with placed.worker(placed.own_queue):
        described = await schedule.describe()
        assert described.schedule.action.task_queue == placed.own_queue
        result = await client.execute_activity(
            where, id=placed.id("a"), task_queue=placed.queue, start_to_close_timeout=PATIENTLY
        )
        assert result["queue"] == placed.own_queue
    await schedule.delete()


async def test_b05_a_start_as_one_tenant_in_anothers_namespace_is_refused_by_the_worker(placed):
    """A worker of several namespaces must not take a forged tenant at its word."""
    for tenant in (placed.shared, placed.own):
        async with placed.worker(namespace="second"):
            forger = placed.forger(tenant, namespace="second")
            handle = await forger.start_workflow(
                Where.run, id=f"{tenant}:forged", task_queue=placed.queue
            )
            assert await failure(handle) == ("TenantMismatch", True)


async def test_b05_a_start_past_the_tenants_own_queue_is_refused_by_the_worker(placed):
    async with placed.worker():
        handle = await placed.forger(placed.own).start_workflow(
            Where.run, id=f"{placed.own}:past", task_queue=placed.queue
        )
        assert await failure(handle) == ("TenantMismatch", True)


@pytest.mark.parametrize(
    ("tenant", "kind"), [("nobody", "TenantUnknown"), ("late", "TenantSuspended")]
)
async def test_a_start_without_our_client_is_refused_by_the_worker_before_any_code_runs(
    placed, tenant, kind, caplog
):
    tenant = placed.late if tenant == "late" else tenant
    async with placed.worker():
        handle = await placed.forger(tenant).start_workflow(
            Where.run, id=placed.id(f"{tenant}:w"), task_queue=placed.queue
        )
        assert await failure(handle) == (kind, True)
    assert "workflow refused" in caplog.text


async def test_an_activity_without_a_workflow_is_refused_by_the_worker_likewise(placed):
    forger = placed.forger(placed.late)
    async with placed.worker():
        with pytest.raises(ActivityFailureError) as caught:
            await forger.execute_activity(
                where,
                id=f"{placed.late}:a",
                task_queue=placed.queue,
                start_to_close_timeout=PATIENTLY,
            )
        cause = caught.value.cause
        assert isinstance(cause, ApplicationError)
        assert "is suspended" in cause.message
        assert (cause.type, cause.non_retryable) == ("TenantSuspended", True)


@pytest.mark.parametrize("kind", ["activity", "child", "continue"])
@pytest.mark.parametrize("cache", [1000, 0])
async def test_b11_a_workflow_that_names_another_tenants_queue_fails(placed, kind, cache):
    async with placed.worker(max_cached_workflows=cache):
        handle = await placed.client(placed.shared).start_workflow(
            Sends.run, args=[kind, placed.own_queue], id=placed.id(), task_queue=placed.queue
        )
        assert await failure(handle) == ("TenantMismatch", True)
    assert not {event.event_type for event in (await handle.fetch_history()).events} & {
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    }


@pytest.mark.parametrize("queue", ["/_sys/{}/1", "temporal-sys-per-ns-tq"])
@pytest.mark.parametrize("kind", ["activity", "child", "continue"])
async def test_b11_a_workflow_names_neither_a_partition_nor_a_queue_of_the_servers(
    placed, kind, queue
):
    async with placed.worker():
        handle = await placed.client(placed.shared).start_workflow(
            Sends.run,
            args=[kind, queue.format(placed.own_queue)],
            id=placed.id(),
            task_queue=placed.queue,
        )
        assert await failure(handle) == ("TenantMismatch", True)


async def test_b05_an_activity_that_arrives_on_another_tenants_queue_is_refused(placed):
    """From a worker of the bare SDK that forges the header, and without a workflow."""
    bare = placed.fresh.task_queue("bare")
    forger = placed.forger(placed.shared)
    async with (
        placed.worker(placed.own_queue),
        Worker(
            placed.raw,
            task_queue=bare,
            workflows=[Sends],
            workflow_runner=UnsandboxedWorkflowRunner(),
            interceptors=[ForgingWorker(placed.shared)],
        ),
    ):
        workflow = await forger.start_workflow(
            Sends.run, args=["activity", placed.own_queue], id=f"{placed.shared}:w", task_queue=bare
        )
        assert await failure(workflow) == ("TenantMismatch", True)
        activity = await forger.start_activity(
            where,
            id=f"{placed.shared}:a",
            task_queue=placed.own_queue,
            start_to_close_timeout=PATIENTLY,
        )
        with pytest.raises(ActivityFailureError) as caught:
            await activity.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "TenantMismatch"


@pytest.mark.parametrize("cache", [1000, 0])
async def test_inside_a_workflow_a_queues_name_means_the_tenants_own_queue(placed, cache):
    async with placed.worker(placed.own_queue, max_cached_workflows=cache):
        client = placed.client(placed.own)
        for kind in ("activity", "child", "continue"):
            handle = await client.start_workflow(
                Sends.run, args=[kind, placed.queue], id=placed.id(kind), task_queue=placed.queue
            )
            assert (await handle.result())["queue"] == placed.own_queue


@pytest.mark.parametrize("cache", [1000, 0])
async def test_work_that_runs_when_its_tenant_is_moved_goes_on_and_moves_as_it_goes(placed, cache):
    client = placed.client(placed.shared)
    moved_to = placed.fresh.task_queue("moved")
    async with placed.worker(max_cached_workflows=cache):
        handles = [
            await client.start_workflow(
                Sends.run,
                args=[kind, None, None, True],
                id=placed.id(kind),
                task_queue=placed.queue,
            )
            for kind in ("activity", "continue")
        ]
        for handle in handles:
            assert await handle.query(Sends.told) is False
        placed.records[placed.shared] = TenantRecord(
            placed.shared, task_queues={placed.queue: moved_to}
        )
        async with placed.worker(moved_to, max_cached_workflows=cache):
            for handle in handles:
                await handle.signal(Sends.go)
                assert (await handle.result())["queue"] == moved_to
                described = await handle.describe()
            assert described.task_queue == moved_to


async def test_a_history_replays_whatever_the_directory_says_by_now(placed):
    async with placed.worker(placed.own_queue):
        handle = await placed.client(placed.own).start_workflow(
            Sends.run, args=["activity", placed.queue, 1], id=placed.id(), task_queue=placed.queue
        )
        await handle.result()
    history = await handle.fetch_history()
    asked = placed.questions
    placed.records.clear()
    plugin = OrkestraPlugin(placed.config, directory=placed.directory)
    with replaying(workflows=WORKFLOWS, plugins=[plugin]) as replayer:
        await replayer.replay_workflow(history)
    assert placed.questions == asked


async def test_while_the_directory_is_away_work_waits_and_then_goes_on(placed, caplog):
    client = placed.client(placed.shared)
    # Only the first failure of a task is reported; the next tries follow when it times out.
    start = {"task_queue": placed.queue, "task_timeout": timedelta(seconds=1)}
    async with placed.worker():
        running = await client.start_workflow(
            Sends.run, args=["activity", None, None, True], id=placed.id("r"), **start
        )
        assert await running.query(Sends.told) is False
        placed.error = OSError("the accounts database is away")
        waiting = await placed.forger(placed.shared).start_workflow(
            Where.run, id=f"{placed.shared}:waits", **start
        )
        await until(lambda: "workflow waits" in caplog.text)
        await running.signal(Sends.go)
        await asyncio.sleep(0.1)
        for handle in (running, waiting):
            assert (
                await placed.raw.get_workflow_handle(handle.id).describe()
            ).status is WorkflowExecutionStatus.RUNNING
        placed.error = None
        assert (await waiting.result())["queue"] == placed.queue
        assert (await running.result())["queue"] == placed.queue


async def test_a_directory_that_hangs_fails_the_task_before_the_sdk_calls_it_a_deadlock(
    placed, caplog
):
    release = asyncio.Event()

    async def hang(tenant: str) -> TenantRecord | None:
        await release.wait()
        return TenantRecord(tenant)

    placed.directory = CachedTenantDirectory(
        CallableTenantDirectory(hang), deadline=timedelta(seconds=30)
    )
    async with placed.worker():
        handle = await placed.forger(placed.shared).start_workflow(
            Where.run, id=f"{placed.shared}:hangs", task_queue=placed.queue
        )
        await until(lambda: "could not be looked up within" in caplog.text)
        release.set()
        assert (await handle.result())["queue"] == placed.queue
    assert "deadlock" not in caplog.text


async def test_urgency_and_weight_are_what_the_directory_grants(placed):
    placed.records[placed.shared] = TenantRecord(
        placed.shared, fairness_weight=2.5, most_urgent_priority=2
    )
    client = placed.client(placed.shared)
    greedy = Priority(priority_key=1, fairness_key="someone", fairness_weight=1000)
    async with placed.worker():
        for kind in ("activity", "child"):
            handle = await client.start_workflow(
                Sends.run,
                args=[kind, None, 1],
                id=placed.id(kind),
                task_queue=placed.queue,
                priority=greedy,
            )
            result = await handle.result()
            assert result["urgency"] == 2
            # The server fills in an activity's from its workflow's, without showing it.
            assert result["weight"] == (None if kind == "activity" else 2.5)
            priority = (await handle.describe()).raw_info.priority
            assert (priority.priority_key, priority.fairness_weight) == (2, 2.5)
            assert priority.fairness_key == placed.shared


async def test_b16_a_worker_of_some_tenants_is_refused_on_a_queue_of_others(placed):
    async with TemporalConnectionManager(placed.config, directory=placed.directory) as manager:

        async def limited(queue: str, *tenants: str) -> Worker:
            return await create_worker(
                task_queue=queue, workflows=WORKFLOWS, tenants=tenants, manager=manager
            )

        with pytest.raises(ConfigurationError, match="is shared"):
            await limited(placed.queue, placed.shared)
        with pytest.raises(ConfigurationError, match="is not for"):
            await limited(placed.own_queue, placed.own, placed.shared)
        with pytest.raises(UnknownTenantError):
            await limited(placed.own_queue, "nobody")
        assert (await limited(placed.own_queue, placed.own)).task_queue == placed.own_queue
        open_manager = TemporalConnectionManager(placed.config)
        with pytest.raises(ConfigurationError, match="is shared"):
            await create_worker(
                task_queue="q", workflows=WORKFLOWS, tenants=["acme"], manager=open_manager
            )
        await open_manager.close()


async def test_b16_foreign_work_at_a_worker_of_some_tenants_is_left_for_another(placed, caplog):
    """It keeps its attempts for the worker that serves it: here, one that is started later."""
    async with TemporalConnectionManager(placed.config, directory=placed.directory) as manager:
        limited = await create_worker(
            task_queue=placed.own_queue,
            workflows=WORKFLOWS,
            activities=ACTIVITIES,
            tenants=[placed.own],
            manager=manager,
            graceful_shutdown_timeout=timedelta(),
        )
        forger = placed.forger(placed.shared)
        start = {"task_queue": placed.own_queue}
        async with limited:
            workflow = await forger.start_workflow(
                Where.run, id=f"{placed.shared}:w", task_timeout=timedelta(seconds=1), **start
            )
            activity = await forger.start_activity(
                where, id=f"{placed.shared}:a", start_to_close_timeout=PATIENTLY, **start
            )
            await until(lambda: caplog.text.count("misconfiguration") >= 2)
            own = await placed.client(placed.own).start_workflow(
                Sends.run, args=["activity", None], id=placed.id(), task_queue=placed.queue
            )
            assert (await own.result())["queue"] == placed.own_queue
        assert (await workflow.describe()).status is WorkflowExecutionStatus.RUNNING
        placed.records[placed.own] = TenantRecord(placed.own)
        async with placed.worker(placed.own_queue):
            assert (await workflow.result())["queue"] == placed.own_queue
            assert (await activity.result())["queue"] == placed.own_queue


async def test_an_operator_starts_where_the_tenant_is_placed(placed):
    operator = placed.client(ALL_TENANTS)
    async with placed.worker(placed.own_queue):
        handle = await operator.start_workflow(
            Where.run, id=f"{placed.own}:by-hand", task_queue=placed.queue
        )
        assert (await handle.result())["queue"] == placed.own_queue


async def test_tenants_of_the_file_are_the_directory(placed):
    config = OrkestraConfig.model_validate(
        {"temporal": {"address": placed.config.temporal.address}, "tenants": {placed.shared: {}}}
    )
    async with TemporalConnectionManager(config) as manager:
        assert (await manager.get_client(tenant=placed.shared)).namespace == "default"
        with pytest.raises(UnknownTenantError):
            await manager.get_client(tenant=placed.own)
    assert StaticTenantDirectory.from_settings(config.tenants) is not None


@nexusrpc.handler.service_handler(service=Desk)
class Handler:
    @nexus.workflow_run_operation
    async def backed(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Backing.run, text, id="backing")

    @nexus.workflow_run_operation
    async def meddling(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        return await self.backed(ctx, text)


async def test_b05_an_operation_on_an_endpoint_of_another_tenants_queue_is_refused(placed):
    """Whoever may name an endpoint gets to its queue, whose it is."""
    name = f"endpoint-{placed.fresh.suffix}"
    target = EndpointTarget.Worker(namespace="default", task_queue=placed.own_queue)
    await placed.raw.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(
            spec=EndpointSpec(name=name, target=EndpointTarget(worker=target))
        )
    )
    unbound = placed.client(None)
    workflows = [Backing, Caller]
    async with (
        Worker(unbound, task_queue=placed.queue, workflows=workflows),
        Worker(
            unbound,
            task_queue=placed.own_queue,
            workflows=workflows,
            nexus_service_handlers=[Handler()],
        ),
    ):
        arguments = [name, "backed"]
        refused = await placed.client(placed.shared).start_workflow(
            Caller.run, args=arguments, id=placed.id("refused"), task_queue=placed.queue
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(refused.result(), PATIENCE)
        assert "is not this tenant's" in repr(caught.value.cause.__cause__)
        served = await placed.client(placed.own).start_workflow(
            Caller.run, args=arguments, id=placed.id("served"), task_queue=placed.queue
        )
        assert await served.result() == f"done by {placed.own}:backing"


async def test_a_debugged_worker_asks_the_directory_between_two_tries(placed):
    """The SDK's debug mode runs workflows on the event loop, where nobody can wait for it."""
    async with placed.worker(debug_mode=True):
        handle = await placed.client(placed.shared).start_workflow(
            Where.run, id=placed.id(), task_queue=placed.queue
        )
        assert (await handle.result())["queue"] == placed.queue
