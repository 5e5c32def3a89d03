"""What happens to workflows whose traces are rebuilt, and what only a history can say of it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy

from tests.support.traced_worker import Traced
from tests.support.waiting import until
from tests.workflows import rebuilt, traced


async def is_pending(handle: Any) -> None:
    """Wait until the workflow waits for an activity that has begun."""

    async def has_begun() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return any(each.HasField("last_started_time") for each in pending)

    await until(has_begun)


async def has_done(handle: Any, event: str, count: int = 1) -> None:
    """Wait until the history has so many events of the kind."""

    async def has_it() -> bool:
        return sum([e.HasField(event) async for e in handle.fetch_history_events()]) >= count

    await until(has_it)


async def converse(live: Traced) -> Any:
    handle = await live.start(traced.Answer.run, traced.Ticket(1, "hello"), 2)
    first = live.raw.get_workflow_handle(handle.id, run_id=handle.result_run_id)
    await handle.execute_update("reply", "yes")
    await first.signal("poke", "of nobody's, and dropped")
    await handle.signal("poke", "now")
    await has_done(first, "workflow_execution_continued_as_new_event_attributes")
    await handle.execute_update("reply", "yes")
    await handle.signal("poke", "now")
    await handle.result()
    return handle


async def fail(live: Traced) -> Any:
    handle = await live.start(traced.Fail.run, "activity", "it broke")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    return handle


async def cancel(live: Traced) -> Any:
    handle = await live.start(traced.Fail.run, "wait")
    await is_pending(handle)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    return handle


async def run_locally(live: Traced) -> Any:
    handle = await live.start(rebuilt.Locals.run, task_timeout=timedelta(seconds=4))
    await handle.signal("note", "one")
    await handle.execute_update("noted", "two")
    await handle.result()
    return handle


async def get_into_trouble(live: Traced) -> Any:
    handle = await live.start(rebuilt.Troubles.run)
    await handle.result()
    return handle


async def retry(live: Traced) -> Any:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2)
    handle = await live.start(rebuilt.Again.run, retry_policy=policy)
    await handle.result()
    return handle


async def retry_activities(live: Traced) -> Any:
    handle = await live.start(traced.Flaky.run, 1, 2)
    await handle.result()
    return handle


async def fail_a_task(live: Traced) -> Any:
    handle = await live.start(traced.FailTask.run)
    await handle.result()
    return handle


async def signal_with_start(live: Traced) -> Any:
    handle = await live.start(rebuilt.Waits.run, start_signal="go")
    await handle.signal("nobody listens")
    await handle.result()
    return handle


async def terminate(live: Traced) -> Any:
    handle = await live.start(rebuilt.Waits.run)
    await has_done(handle, "activity_task_completed_event_attributes")
    await handle.terminate(reason="stuck")
    return handle


async def time_out(live: Traced) -> Any:
    handle = await live.start(rebuilt.Waits.run, execution_timeout=timedelta(seconds=6))
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    return handle


async def reset(live: Traced) -> Any:
    handle = await live.start(rebuilt.Waits.run)
    await handle.signal("go")
    await handle.result()
    third_task = [
        event.event_id
        async for event in handle.fetch_history_events()
        if event.HasField("workflow_task_completed_event_attributes")
    ][2]
    request = ResetWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id),
        workflow_task_finish_event_id=third_task,
        request_id="again",
        reason="a bug",
    )
    answer = await live.raw.workflow_service.reset_workflow_execution(request)
    await live.raw.get_workflow_handle(handle.id, run_id=answer.run_id).result()
    return handle


Scenario = Callable[[Traced], Awaitable[Any]]

ONLY_FROM_HISTORY: dict[Scenario, Counter[str]] = {
    converse: Counter(),
    fail: Counter(),
    cancel: Counter(),
    run_locally: Counter(),
    # Nobody took one activity in time: no worker could send it.
    get_into_trouble: Counter({"activity:linger": 1}),
    retry: Counter(),
    retry_activities: Counter(),
    fail_a_task: Counter(),
    # No handler took one signal, which no history says.
    signal_with_start: Counter({"signal:nobody listens": 1}),
    terminate: Counter({"workflow:Waits": 1}),
    time_out: Counter({"workflow:Waits": 1}),
    reset: Counter(),
}
