"""Scenes for the table of tracing: each plays one workflow and says which spans it must leave."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WorkflowContinuedAsNewError,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy
from temporalio.worker import Worker

from orkestra import OrkestraConfig, OrkestraPlugin, TemporalSettings
from orkestra.testing import LangfuseReceiver, ReceivedSpan
from orkestra.tracing import trace_attributes, trace_id_of
from tests.support.names import Fresh
from tests.support.traced_worker import SOON
from tests.support.waiting import PATIENCE, PATIENTLY, until
from tests.workflows import scenes, traced

QUICKLY = timedelta(milliseconds=10)

Handle = WorkflowHandle[Any, Any]


@dataclass(frozen=True, slots=True)
class Played:
    """A workflow that was played, and the spans that its trace must have.

    Attributes:
        handle: The workflow.
        first_run_id: The first run of its chain.
        names: The spans that come over the wire.
        unsent: Those that only the history has, because no worker ever saw them end.
        repeated: May come more often: on a busy machine the task times out, and the core runs its
            local activities again, which are other executions then.
    """

    handle: Handle
    first_run_id: str
    names: Counter[str]
    unsent: Counter[str] = field(default_factory=Counter[str])
    repeated: str | None = None

    @property
    def trace_id(self) -> str:
        return trace_id_of("default", self.handle.id, self.first_run_id)


def faults(spans: list[ReceivedSpan], scene: Played) -> str:
    """What is wrong with a trace: names that it should not have or lacks, roots, orphans, twins.

    Timers count only where they are expected: on a busy machine any may take long.
    """
    ids = {span.span_id for span in spans}
    names = Counter(s.name for s in spans if s.name != "timer" or "timer" in scene.names)
    roots = [span.name for span in spans if span.parent_id is None]
    found = {
        "too many": {name for name in names - scene.names if name != scene.repeated},
        "missing": dict(scene.names - names),
        "roots": [] if len(roots) == 1 else roots or ["none"],
        "orphans": [s.name for s in spans if s.parent_id and s.parent_id not in ids],
        "sent again": [s.name for s in spans if [t.span_id for t in spans].count(s.span_id) > 1],
    }
    return str({what: which for what, which in found.items() if which} or "")


class Stage:
    """A server, a tenant, and a plugin that sends to a receiver of its own."""

    def __init__(
        self, raw: Client, fresh: Fresh, receiver: LangfuseReceiver, **settings: Any
    ) -> None:
        self.raw = raw
        self.fresh = fresh
        self.receiver = receiver
        self.tenant = fresh.tenant()
        self.queue = fresh.task_queue()
        self.endpoint = f"counter-{fresh.suffix}"
        temporal = TemporalSettings(ui_url=settings.pop("ui_url", None))
        langfuse = receiver.settings(timer_threshold=timedelta(seconds=0.3), **settings)
        self.config = OrkestraConfig(temporal=temporal, langfuse=langfuse)
        self.plugin = OrkestraPlugin(self.config)
        self.client = self.client_of(self.plugin.for_tenant(self.tenant))

    def client_of(self, plugin: OrkestraPlugin) -> Client:
        return Client(self.raw.service_client, plugins=[plugin])

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncGenerator[Worker]:
        with ThreadPoolExecutor(2) as threads:
            async with Worker(
                options.pop("client", None) or self.client_of(self.plugin),
                task_queue=self.queue,
                workflows=[*scenes.WORKFLOWS, *traced.WORKFLOWS],
                activities=[*scenes.ACTIVITIES, *traced.ACTIVITIES],
                activity_executor=threads,
                nexus_service_handlers=[scenes.CounterHandler()],
                max_heartbeat_throttle_interval=SOON,
                **options,
            ) as worker:
                yield worker

    async def open_endpoint(self) -> None:
        target = EndpointTarget.Worker(namespace="default", task_queue=self.queue)
        spec = EndpointSpec(name=self.endpoint, target=EndpointTarget(worker=target))
        await self.raw.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))

    async def start(self, run: Any, *args: Any, id: str = "", **options: Any) -> Handle:
        workflow_id = id or f"{run.__qualname__.partition('.')[0]}-{self.fresh.suffix}"
        return await self.client.start_workflow(
            run, args=args, id=workflow_id, task_queue=self.queue, **options
        )

    async def spans(self) -> list[ReceivedSpan]:
        assert await self.plugin.flush(PATIENTLY)
        return self.receiver.spans

    async def close(self) -> None:
        await self.plugin.close()


Scene = Callable[[Stage], Awaitable[Played]]


def played(handle: Handle, *names: str, first: str | None = None) -> Played:
    return Played(handle, first or handle.first_execution_run_id or "", Counter(names))


async def ended(handle: Handle) -> None:
    """Wait for an end, good or bad."""
    try:
        await handle.result()
    except WorkflowFailureError:
        return


async def plain(stage: Stage) -> Played:
    handle = await stage.start(scenes.Leaf.run)
    await handle.result()
    return played(handle, "workflow:Leaf", "activity:step")


async def attributed(stage: Stage) -> Played:
    with trace_attributes(user_id="ada", session_id="chat", tags=["vip"]):
        handle = await stage.start(
            scenes.CallsNexus.run, stage.endpoint, stage.fresh.suffix, id="attributed"
        )
    await handle.result()
    return played(handle, *NEXUS)


NEXUS = (
    "workflow:CallsNexus",
    "nexus:Counter/backed",
    "workflow:Backing",
    "activity:step",
    "nexus:Counter/direct",
    "nexus:Counter/broken",
)


async def scheduled(stage: Stage) -> Played:
    schedule = await stage.client.create_schedule(
        f"schedule-{stage.fresh.suffix}",
        Schedule(
            action=ScheduleActionStartWorkflow(
                scenes.Leaf.run, id="scheduled", task_queue=stage.queue
            ),
            spec=ScheduleSpec(),
        ),
        trigger_immediately=True,
    )

    async def runs() -> Any:
        return (await schedule.describe()).info.recent_actions

    [action] = await until(runs)
    await schedule.delete()
    run = action.action
    handle = stage.client.get_workflow_handle(run.workflow_id)
    await handle.result()
    first = run.first_execution_run_id
    return played(handle, "workflow:Leaf", "activity:step", first=first)


async def foreign(stage: Stage) -> Played:
    """Started by a client that has nothing of ours, as other languages and the CLI do."""
    handle = await stage.raw.start_workflow(
        scenes.Leaf.run,
        id=f"{stage.tenant}:foreign",
        task_queue=stage.queue,
        memo={"tenantId": stage.tenant},
    )
    await handle.result()
    return played(handle, "workflow:Leaf", "activity:step")


async def mixed(stage: Stage) -> Played:
    handle = await stage.start(scenes.Mixed.run, start_signal="note", start_signal_args=["first"])
    await handle.signal("late", "before its handler")
    with suppress(WorkflowUpdateFailedError):
        await handle.execute_update(scenes.Mixed.add, "refused")
    await handle.execute_update(scenes.Mixed.add, "taken")
    assert await handle.query(scenes.Mixed.state)
    await handle.signal("late", "after")
    await handle.signal(scenes.Mixed.finish)
    await handle.result()
    names = ["workflow:Mixed", "signal:note", "activity:step", "signal:late", "signal:late"]
    return played(handle, *names, "update:add", "activity:step", "signal:finish")


async def continued(stage: Stage) -> Played:
    handle = await stage.start(traced.Answer.run, traced.Ticket(1, "hi"), 2)
    client = stage.client
    for _ in range(2):
        current = client.get_workflow_handle(handle.id)
        before = (await current.describe()).run_id
        await current.signal(traced.Answer.poke, "please")
        await current.execute_update(traced.Answer.reply, "yes")

        async def is_over(handle: Handle = current, run_id: str | None = before) -> bool:
            now = await handle.describe()
            return now.run_id != run_id or bool(now.close_time)

        await until(is_over)
    await handle.result()
    each = ["workflow:Answer", "workflow:Notify", "activity:draft", "activity:tidy"]
    each += ["activity:tidy", "signal:poke", "update:reply"]
    return played(handle, *each, *each)


async def retried(stage: Stage) -> Played:
    policy = RetryPolicy(initial_interval=QUICKLY, maximum_attempts=3)
    handle = await stage.start(scenes.Retried.run, 3, retry_policy=policy)
    assert await handle.result() == 3
    return played(handle, *["workflow:Retried", "activity:step"] * 3)


async def cron(stage: Stage) -> Played:
    """Two runs of a cron workflow; the third is terminated before it begins."""
    handle = await stage.start(scenes.Retried.run, 1, id="cron", cron_schedule="@every 1s")
    second = await until(lambda: _second_run(stage, handle))
    with suppress(WorkflowContinuedAsNewError):
        await stage.client.get_workflow_handle(handle.id, run_id=second).result(follow_runs=False)
    await stage.client.get_workflow_handle(handle.id).terminate("enough")
    two = played(handle, *["workflow:Retried", "activity:step"] * 2)
    return replace(two, unsent=Counter(["workflow:Retried"]))


async def _second_run(stage: Stage, handle: Handle) -> str | None:
    latest = await stage.client.get_workflow_handle(handle.id).describe()
    return latest.run_id if latest.run_id != handle.first_execution_run_id else None


async def failed(stage: Stage) -> Played:
    handle = await stage.start(traced.Fail.run, "activity")
    await ended(handle)
    return played(handle, "workflow:Fail", "activity:refuse")


async def cancelled(stage: Stage) -> Played:
    handle = await stage.start(traced.Fail.run, "wait", id="cancelled")

    async def is_running() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return any(each.HasField("last_heartbeat_time") for each in pending)

    await until(is_running)
    await handle.cancel()
    await ended(handle)
    return played(handle, "workflow:Fail", "activity:wait_to_be_cancelled")


async def flaky(stage: Stage) -> Played:
    handle = await stage.start(traced.Flaky.run, 2, 3)
    await handle.result()
    return played(handle, "workflow:Flaky", *["activity:look_up"] * 6)


async def timed_out(stage: Stage) -> Played:
    handle = await stage.start(scenes.TooSlow.run)
    assert await handle.result() == "timed out"
    return played(handle, "workflow:TooSlow", "activity:linger", "activity:linger")


async def completed_by_another(stage: Stage) -> Played:
    handle = await stage.start(scenes.Completed.run)

    async def is_running() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return any(each.HasField("last_started_time") for each in pending)

    await until(is_running)
    doer = stage.client.get_async_activity_handle(
        workflow_id=handle.id, run_id=handle.first_execution_run_id, activity_id="later"
    )
    await doer.complete("by another")
    assert await handle.result() == "by another"
    return played(handle, "workflow:Completed", "activity:complete_later")


async def long_local(stage: Stage) -> Played:
    handle = await stage.start(scenes.LongLocal.run, task_timeout=timedelta(seconds=4))
    await handle.result()
    run = played(handle, "workflow:LongLocal", "activity:step", *["activity:linger"] * 4)
    return replace(run, repeated="activity:linger")


async def abandoned(stage: Stage) -> Played:
    handle = await stage.start(scenes.Abandon.run)
    await handle.result()
    await stage.client.get_workflow_handle(f"{handle.id}-child").result()
    names = ["workflow:Abandon", "workflow:Leaf", "activity:step", "timer"]
    return played(handle, *names, "child:Leaf", "undelivered:hello")


async def waits(stage: Stage) -> Played:
    handle = await stage.start(scenes.Waits.run)
    await handle.result()
    return played(handle, "workflow:Waits", "timer", "timer", "timer")


async def buggy(stage: Stage) -> Played:
    handle = await stage.start(scenes.Buggy.run)

    async def is_waiting() -> bool:
        events = (await handle.fetch_history()).events
        return any(e.HasField("activity_task_completed_event_attributes") for e in events)

    await until(is_waiting)
    await handle.signal(scenes.Buggy.poke)
    assert await handle.result() == "mended"
    return played(handle, "workflow:Buggy", "activity:step", "signal:poke")


async def raced(stage: Stage) -> Played:
    workflow_id = f"raced-{stage.fresh.suffix}"
    server_id = f"{stage.tenant}:{workflow_id}"
    at_it, has_come = threading.Event(), threading.Event()
    scenes.Races.at_it[server_id], scenes.Races.has_come[server_id] = at_it, has_come
    handle = await stage.start(scenes.Races.run, id=workflow_id)
    assert await asyncio.to_thread(at_it.wait, PATIENCE)
    await handle.signal(scenes.Races.poke)
    has_come.set()
    assert await handle.result() == 1
    return played(handle, "workflow:Races", "activity:step", "signal:poke")


async def nexus(stage: Stage) -> Played:
    text = f"{stage.fresh.suffix}-plain"
    handle = await stage.start(scenes.CallsNexus.run, stage.endpoint, text)
    assert await handle.result() == [text, text.upper(), "NexusOperationError"]
    return played(handle, *NEXUS)


async def reset(stage: Stage) -> Played:
    """Reset to its first task when it is done: it does all but that task again."""
    handle = await stage.start(scenes.Stays.run)
    await handle.signal(scenes.Stays.go)
    await handle.result()
    reset_to = await stage.raw.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=WorkflowExecution(
                workflow_id=handle.id, run_id=handle.first_execution_run_id
            ),
            reason="again",
            workflow_task_finish_event_id=4,
            request_id=stage.fresh.suffix,
        )
    )
    again = stage.client.get_workflow_handle(handle.id, run_id=reset_to.run_id)
    await again.result()
    each = ["workflow:Stays", "activity:step", "activity:step", "signal:go"]
    return played(handle, *each, *each)


async def started_twice(stage: Stage) -> Played:
    policy = WorkflowIDConflictPolicy.USE_EXISTING
    first = await stage.start(scenes.Stays.run, id="twice", id_conflict_policy=policy)
    second = await stage.start(scenes.Stays.run, id="twice", id_conflict_policy=policy)
    await second.signal(scenes.Stays.go)
    await first.result()
    names = ["workflow:Stays", "activity:step", "activity:step", "signal:go"]
    return played(first, *names, first=first.first_execution_run_id or second.result_run_id)


SCENES: list[Scene] = [
    abandoned,
    attributed,
    buggy,
    cancelled,
    completed_by_another,
    continued,
    cron,
    failed,
    flaky,
    foreign,
    long_local,
    mixed,
    nexus,
    plain,
    raced,
    reset,
    retried,
    scheduled,
    started_twice,
    timed_out,
    waits,
]
WITH_LOCAL_ACTIVITIES: list[Scene] = [continued, long_local, mixed]
