"""Finds open executions that cannot go on with new code, before a worker takes them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import Message
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecution, WorkflowHistory
from temporalio.worker import Plugin, Replayer, Worker

from orkestra.cli.dev.messages import Drifted
from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.temporal.plugin import OrkestraPlugin

MOST: Final = 200
"""How many executions are replayed, the newest first."""

_STARTED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
_COMPLETED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
# The core hands its reason over as the text of a structure of Rust.
_REASON: Final = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
_EVENT: Final = re.compile(r"HistoryEvent\(id: (\d+),")
_LONGEST: Final = 400


async def open_executions(operator: Client, worker: Worker) -> tuple[list[WorkflowExecution], int]:
    """List what runs on a worker's queue.

    Args:
        operator: A client of the worker's namespace that sees all tenants.
        worker: The worker.

    Returns:
        The newest, and how many more there are.
    """
    queue = worker.task_queue.replace("'", "''")
    query = f"ExecutionStatus = 'Running' AND TaskQueue = '{queue}'"
    found = [each async for each in operator.list_workflows(query, limit=MOST)]
    total = (await operator.count_workflows(query)).count if len(found) == MOST else len(found)
    return found, max(0, total - len(found))


class Check:
    """Replays executions against the code of a worker."""

    def __init__(self, operator: Client, worker: Worker) -> None:
        """Prepare.

        Args:
            operator: A client of the worker's namespace that sees all tenants.
            worker: The worker, which does not run yet.
        """
        self._operator = operator
        self._replayer = _replayer(worker)

    async def drift_of(self, execution: WorkflowExecution) -> Drifted | None:
        """Replay an execution; None where it can go on, or has ended meanwhile."""
        handle = self._operator.get_workflow_handle(execution.id, run_id=execution.run_id)
        events = [*(await handle.fetch_history()).events]
        failure = await self._failure(events, execution.id)
        if failure is None:
            return None
        place = await self._place(events, execution.id, failure)
        return Drifted(
            workflow_id=execution.id,
            run_id=execution.run_id,
            workflow_type=execution.workflow_type,
            namespace=execution.namespace,
            place=place,
            why=_reason(failure),
        )

    async def _failure(self, events: list[HistoryEvent], workflow_id: str) -> Exception | None:
        history = WorkflowHistory(workflow_id, events)
        result = await self._replayer.replay_workflow(history, raise_on_replay_failure=False)
        return result.replay_failure

    async def _place(self, events: list[HistoryEvent], workflow_id: str, failure: Exception) -> str:
        """The event that the code does not lead to: by the core's word, else by trying."""
        if named := _EVENT.search(str(failure)):
            return next((_shown(e) for e in events if e.event_id == int(named[1])), "")
        ends = [n for n, event in enumerate(events) if event.event_type == _STARTED]
        low, high = 0, len(ends)  # the first start of a task that cannot be reached
        while low < high:
            middle = (low + high) // 2
            if await self._failure(events[: ends[middle] + 1], workflow_id) is None:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return _shown(events[0])
        since = events[ends[low - 1] :]
        completed = next((e for e in since if e.event_type == _COMPLETED), since[0])
        caused = [e for e in since if _cause(e) == completed.event_id]
        return _shown(caused[0]) if len(caused) == 1 else f"after {_shown(completed)}"


def _replayer(worker: Worker) -> Replayer:
    """As the worker would run it, but without tracing: the last task is not a replay."""
    of_worker: Mapping[str, Any] = {**worker.config()}
    of_client = worker.client.config()
    given: Sequence[Any] = of_client["plugins"]
    plugins = [_untraced(p) if isinstance(p, OrkestraPlugin) else p for p in given]
    names = ("workflows", "workflow_failure_exception_types", "debug_mode", "interceptors")
    options = {name: of_worker[name] for name in names if of_worker.get(name) is not None}
    return Replayer(
        **options,
        data_converter=of_client["data_converter"],
        namespace=of_client["namespace"],
        plugins=[plugin for plugin in plugins if isinstance(plugin, Plugin)],
    )


def _untraced(plugin: OrkestraPlugin) -> OrkestraPlugin:
    config: OrkestraConfig = plugin.config
    return OrkestraPlugin(config.model_copy(update={"langfuse": LangfuseSettings()}))


def _cause(event: HistoryEvent) -> int | None:
    attributes: Message = getattr(event, event.WhichOneof("attributes") or "")
    return getattr(attributes, "workflow_task_completed_event_id", None)


def _shown(event: HistoryEvent) -> str:
    words = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").split("_")
    return f"event {event.event_id} ({''.join(word.capitalize() for word in words)})"


def _reason(failure: Exception) -> str:
    found = _REASON.search(str(failure))
    text = found[1].replace('\\"', '"').replace("\\'", "'") if found else str(failure)
    text = text.removeprefix("[TMPRL1100] ").removeprefix("Nondeterminism error: ")
    return text[:_LONGEST]
