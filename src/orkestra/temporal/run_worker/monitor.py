"""Finding workers that take no work, within seconds, although they seem to run.

Three checks, because each sees what the others do not:

- `NamespaceCheck` asks the server for the namespace.
- `PollHealth` reads the core's metrics. The number of pollers alone says little: it does not change
  while the server is away, and it is 0 while every slot is busy; nor does the core count each
  failed poll. So two things count as trouble: polls that start again and again without any answer
  for seconds, and a kind of task with free slots and no poller.
- `PollerCheck` asks the server who polls. It notes when a poll began, and a poll lasts a minute at
  most. A missing poller counts only where the server answers and the worker has free slots.
"""

import asyncio
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import DescribeTaskQueueMode, NamespaceState, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueVersionSelection
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from orkestra.errors import ConnectionClosedError
from orkestra.temporal.guard import unguarded_service
from orkestra.temporal.health import check_temporal_health
from orkestra.temporal.manager import MeteredRuntime, runtime_of
from orkestra.temporal.run_worker.supervisor import ProcessStatus, Stage, Supervisor, WorkerStatus

_logger: Final = logging.getLogger("orkestra.temporal.run_worker")

_CHECK_INTERVAL: Final = timedelta(seconds=2)
SLOW_CHECK_INTERVAL: Final = timedelta(seconds=30)
_RPC_TIMEOUT: Final = timedelta(seconds=3)
_MISSES_TO_REPORT: Final = 2  # a single one may be chance
_PERSISTENT_SECONDS: Final = 5.0
_STREAK_GAP_SECONDS: Final = 20.0
_LONGEST_POLL_GAP: Final = timedelta(seconds=150)

# Prometheus's text format, and the core's names in it.
_LINE: Final = re.compile(r"(temporal_\w+)\{(.*)\} (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")
_STARTED: Final = "temporal_long_request"
_FAILED: Final = "temporal_long_request_failure"
_POLLERS: Final = "temporal_num_pollers"
_FREE_SLOTS: Final = "temporal_worker_task_slots_available"
_WORKFLOW_POLL: Final = "PollWorkflowTaskQueue"
_ACTIVITY_POLL: Final = "PollActivityTaskQueue"
_ANSWERED: Final = {
    "temporal_workflow_task_queue_poll_succeed": _WORKFLOW_POLL,
    "temporal_workflow_task_queue_poll_empty": _WORKFLOW_POLL,
    "temporal_activity_task_received": _ACTIVITY_POLL,
    "temporal_activity_poll_no_task": _ACTIVITY_POLL,
}
_NAMES: Final = (_STARTED, _POLLERS, _FREE_SLOTS, *_ANSWERED)
_CORE_POLLER_TYPES: Final = {
    "workflow_task": "WorkflowWorker",
    "sticky_workflow_task": "WorkflowWorker",
    "activity_task": "ActivityWorker",
    "nexus_task": "NexusWorker",
}

# Statuses after which asking for pollers is given up.
_NOT_OFFERED: Final = frozenset(
    {
        RPCStatusCode.PERMISSION_DENIED,
        RPCStatusCode.UNAUTHENTICATED,
        RPCStatusCode.UNIMPLEMENTED,
        RPCStatusCode.INVALID_ARGUMENT,
    }
)
_WORKFLOWS: Final = "WorkflowWorker"
_ACTIVITIES: Final = "ActivityWorker"
_TASK_QUEUE_TYPES: Final[Mapping[str, tuple[str, TaskQueueType.ValueType]]] = {
    _WORKFLOWS: ("workflow tasks", TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
    _ACTIVITIES: ("activities", TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
}


class HealthMonitor:
    """Check, every two seconds, whether each namespace is served and each worker polls."""

    def __init__(
        self,
        status: ProcessStatus,
        supervisors: Sequence[Supervisor],
        *,
        search_attribute: str | None = None,
        period: timedelta = _CHECK_INTERVAL,
        every: timedelta = SLOW_CHECK_INTERVAL,
    ) -> None:
        self._status = status
        self._supervisors = supervisors
        self._period = period.total_seconds()
        self._poll_health = {each: PollHealth() for each in supervisors}
        self._pollers = {each: PollerCheck(each.worker, every=every) for each in supervisors}
        self._namespaces = {
            _place(each.client): NamespaceCheck(
                each.client, search_attribute=search_attribute, every=every
            )
            for each in supervisors
        }

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                await self._check()
            except Exception:
                _logger.exception("The health of the workers cannot be checked")
            await asyncio.sleep(self._period)

    async def _check(self) -> None:
        checks = self._namespaces.values()
        problems = await asyncio.gather(*(each.problem() for each in checks))
        found = dict(zip(self._namespaces, problems, strict=True))
        metrics = await _poll_metrics(each.client for each in self._supervisors)
        for each in self._supervisors:
            each.status.unreachable = found[_place(each.client)]
            own = metrics.get((each.status.namespace, each.status.task_queue))
            self._note(each.status, each.status.unreachable or await self._trouble(each, own))

    async def _trouble(self, each: Supervisor, own: "PollMetrics | None") -> str | None:
        """Find out why a worker takes no work although its namespace is served."""
        judged = None if own is None else self._poll_health[each].problem(own)
        lacking = await self._namespaces[_place(each.client)].incomplete()
        if judged or lacking or each.status.fault is not None:
            return judged or lacking
        return await self._pollers[each].problem(own)

    def _note(self, worker: WorkerStatus, trouble: str | None) -> None:
        """Log what has changed."""
        if self._status.stage is Stage.RUNNING and worker.fault is None:
            if trouble is not None and trouble != worker.trouble:
                _logger.error(
                    "Worker for task queue %r takes no work: %s", worker.task_queue, trouble
                )
            elif worker.trouble is not None and trouble is None:
                _logger.warning("Worker for task queue %r takes work again", worker.task_queue)
        worker.trouble = trouble


def _place(client: Client) -> tuple[int, str]:
    """Identify a namespace; two servers may each have one of the same name."""
    return id(unguarded_service(client)), client.namespace


async def _poll_metrics(clients: Iterable[Client]) -> "dict[tuple[str, str], PollMetrics]":
    runtimes = {id(found): found for client in clients if (found := runtime_of(client))}
    merged: dict[tuple[str, str], PollMetrics] = {}
    for runtime in runtimes.values():
        merged |= parse_core_metrics(await asyncio.to_thread(_metrics_text, runtime))
    return merged


def _metrics_text(runtime: MeteredRuntime) -> str:
    try:
        return runtime.metrics_text()
    except OSError as error:
        _logger.warning("%s", error)
        return ""


class NamespaceCheck:
    """Check of one namespace over one connection."""

    def __init__(
        self,
        client: Client,
        *,
        search_attribute: str | None,
        every: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._attribute = search_attribute
        self._every = every.total_seconds()
        self._clock = clock
        self._last: str | None = None
        self._failed_calls = 0
        self._checked_at = clock()
        self._missing: str | None = None

    async def problem(self) -> str | None:
        """Find out why the server does not serve the namespace; None where it does."""
        self._last = await self._described()
        return self._last

    async def incomplete(self) -> str | None:
        """Find out what the namespace lacks; None where that is nothing, or unknown."""
        if self._attribute is None or self._clock() - self._checked_at < self._every:
            return self._missing
        self._checked_at = self._clock()
        report = await check_temporal_health(
            self._client, timeout=_RPC_TIMEOUT, search_attribute=self._attribute
        )
        found = (each for each in report.problems if each.name == "search_attribute")
        self._missing = next((each.detail for each in found), None)
        return self._missing

    async def _described(self) -> str | None:
        name = self._client.namespace
        try:
            answer = await unguarded_service(self._client).workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=name), retry=False, timeout=_RPC_TIMEOUT
            )
        except RPCError as error:
            return self._failure(name, error)
        except ConnectionClosedError as error:
            return str(error)
        self._failed_calls = 0
        state = answer.namespace_info.state
        if state == NamespaceState.NAMESPACE_STATE_REGISTERED:
            return None
        shown = NamespaceState.Name(state).removeprefix("NAMESPACE_STATE_").lower()
        return f"namespace {name!r} is {shown}"

    def _failure(self, name: str, error: RPCError) -> str | None:
        if error.status is RPCStatusCode.NOT_FOUND:
            return f"namespace {name!r} does not exist any more"
        if error.status is RPCStatusCode.PERMISSION_DENIED:
            return None  # it may still be allowed to poll
        self._failed_calls += 1
        if self._failed_calls < _MISSES_TO_REPORT:
            return self._last
        return f"the server does not answer: {error.status.name}"


@dataclass
class PollMetrics:
    """Metrics of one worker's polls, by operation or kind of task; an empty answer counts."""

    started: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    answered: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    codes: dict[str, str] = field(default_factory=dict[str, str])
    pollers: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    free_slots: dict[str, float] = field(default_factory=dict[str, float])


def parse_core_metrics(text: str) -> dict[tuple[str, str], PollMetrics]:
    """Read the poll metrics of each worker from the core's text, by namespace and task queue."""
    found: dict[tuple[str, str], PollMetrics] = defaultdict(PollMetrics)
    for name, labels, value in _samples(text):
        metrics = found[labels.get("namespace", ""), labels.get("task_queue", "")]
        operation = labels.get("operation", "")
        if name == _STARTED:
            metrics.started[operation] += value
        elif name == _FAILED:
            metrics.codes[operation] = labels.get("status_code", "")
        elif name in _ANSWERED:
            metrics.answered[_ANSWERED[name]] += value
        elif name == _POLLERS and labels.get("poller_type") in _CORE_POLLER_TYPES:
            metrics.pollers[_CORE_POLLER_TYPES[labels["poller_type"]]] += value
        elif name == _FREE_SLOTS:
            metrics.free_slots[labels.get("worker_type", "")] = value
    return found


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for line in text.splitlines():
        if line.startswith(_NAMES) and (match := _LINE.fullmatch(line)):
            labels = {k: _ESCAPE.sub(_unescaped, v) for k, v in _LABEL.findall(match[2])}
            yield match[1], labels, float(match[3])


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


class PollHealth:
    """Judgement over time of one worker's polls."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: PollMetrics | None = None
        self._streaks: dict[str, _FailureStreak] = {}
        self._without_pollers: dict[str, float] = {}

    def problem(self, now: PollMetrics) -> str | None:
        """Find out from its metrics why the worker takes no work; None where it does."""
        # The first reading is compared with itself, so polls from before it count for nothing.
        last, self._last = self._last or now, now
        return self._failing(last, now) or self._not_polling(now)

    def _failing(self, last: PollMetrics, now: PollMetrics) -> str | None:
        for operation in (_WORKFLOW_POLL, _ACTIVITY_POLL):
            moment = self._clock()
            streak = self._streaks.get(operation)
            is_answered = now.answered[operation] > last.answered[operation]
            # Polls of an idle queue start a minute apart, failing ones within seconds.
            if is_answered or (streak is not None and moment - streak.last > _STREAK_GAP_SECONDS):
                self._streaks.pop(operation, None)
                continue
            if now.started[operation] > last.started[operation]:
                streak = self._streaks.setdefault(operation, _FailureStreak(moment, moment))
                streak.last = moment
            if streak is not None and streak.last - streak.first >= _PERSISTENT_SECONDS:
                code = now.codes.get(operation)
                return f"{operation} keeps failing" + (f": {code}" if code else "")
        return None

    def _not_polling(self, now: PollMetrics) -> str | None:
        for kind, pollers in now.pollers.items():
            if pollers or not now.free_slots.get(kind):
                self._without_pollers.pop(kind, None)
                continue
            since = self._without_pollers.setdefault(kind, self._clock())
            if self._clock() - since >= _PERSISTENT_SECONDS:
                return f"{kind} does not poll, although it has free slots"
        return None


@dataclass
class _FailureStreak:
    """Polls without an answer: when the first and the last was started."""

    first: float
    last: float


class PollerCheck:
    """Check of one worker's polls as the server sees them."""

    def __init__(
        self,
        worker: Worker,
        *,
        every: timedelta = SLOW_CHECK_INTERVAL,
        longest_gap: timedelta = _LONGEST_POLL_GAP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = worker.config()
        identity = config["identity"] if "identity" in config else None
        self._service = unguarded_service(worker.client)
        self._namespace = worker.client.namespace
        self._task_queue = worker.task_queue
        self._identity = identity or self._service.config.identity
        self._kinds = _kinds_of(worker)
        self._every = every.total_seconds()
        self._longest_gap = longest_gap.total_seconds()
        self._clock = clock
        self._checked_at = clock()
        self._newest: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._absences: dict[str, int] = {}
        self._problem: str | None = None

    async def problem(self, own: PollMetrics | None) -> str | None:
        """Find out why the server gives the worker no tasks; None where it does, or is unknown."""
        if not self._kinds or self._clock() - self._checked_at < self._every:
            return self._problem
        self._checked_at = self._clock()
        seen = await self._seen()
        if seen is None:
            self._reset()
        else:
            found = [self._problem_of(kind, seen.get(kind), own) for kind in self._kinds]
            self._problem = next((each for each in found if each), None)
        return self._problem

    async def _seen(self) -> Mapping[str, int] | None:
        """Find when the worker's last poll of each kind began, by the server's clock."""
        # The enhanced mode sees all partitions of the queue; the other one only one.
        request = DescribeTaskQueueRequest(
            namespace=self._namespace,
            task_queue=TaskQueue(name=self._task_queue),
            api_mode=DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED,
            versions=TaskQueueVersionSelection(unversioned=True, all_active=True),
            task_queue_types=[_TASK_QUEUE_TYPES[kind][1] for kind in self._kinds],
            report_pollers=True,
        )
        try:
            answer = await self._service.workflow_service.describe_task_queue(
                request, retry=False, timeout=_RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status in _NOT_OFFERED:
                _logger.debug("The server does not list pollers: %s", error.message)
                self._kinds = ()
            return None
        except ConnectionClosedError:
            return None
        return {
            kind: max(times)
            for kind in self._kinds
            if (
                times := [
                    poller.last_access_time.ToNanoseconds()
                    for version in answer.versions_info.values()
                    for poller in version.types_info[_TASK_QUEUE_TYPES[kind][1]].pollers
                    if poller.identity == self._identity
                ]
            )
        }

    def _problem_of(self, kind: str, newest: int | None, own: PollMetrics | None) -> str | None:
        now = self._clock()
        is_free = kind == _WORKFLOWS if own is None else bool(own.free_slots.get(kind))
        # A worker without a free slot does not poll, so its silence is no fault (T38).
        if not is_free or newest != self._newest.get(kind):
            self._since[kind] = now
        self._absences[kind] = 0 if newest or not is_free else self._absences.get(kind, 0) + 1
        if newest is not None:
            self._newest[kind] = newest
        what = _TASK_QUEUE_TYPES[kind][0]
        if self._absences[kind] >= _MISSES_TO_REPORT:
            return f"the server has not seen {self._identity!r} poll for {what}"
        silence = now - self._since.setdefault(kind, now)
        if silence > self._longest_gap:
            ago = f"in {silence:.0f} s"
            return f"the server has seen no poll of {self._identity!r} for {what} {ago}"
        return None

    def _reset(self) -> None:
        """Start over: a server that does not answer has not denied anything."""
        self._since.clear()
        self._absences.clear()
        self._problem = None


def _kinds_of(worker: Worker) -> tuple[str, ...]:
    """List the kinds that the worker always polls for; none where that depends on versions."""
    config = worker.config()
    deployment = config["deployment_config"] if "deployment_config" in config else None
    if deployment is not None and deployment.use_worker_versioning:
        return ()
    # A rate limit delays the polls for activities.
    limit = config["max_activities_per_second"] if "max_activities_per_second" in config else None
    has_activities = "activities" in config and bool(config["activities"])  # pyright: ignore[reportUnknownArgumentType] - the SDK leaves them untyped
    is_polled = {
        _WORKFLOWS: "workflows" in config and bool(config["workflows"]),
        _ACTIVITIES: has_activities and not limit,
    }
    return tuple(kind for kind, is_one in is_polled.items() if is_one)
