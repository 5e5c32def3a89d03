"""Whether the server sees a worker poll, whatever the worker sees itself.

The server notes who polls, and when a poll began; a poll lasts a minute at most. That a worker is
not among them says something only where the server answers, and where the worker has free slots.
"""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import DescribeTaskQueueMode, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueVersionSelection
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from orkestra.errors import ConnectionClosedError
from orkestra.temporal.lifecycle.polling import Readings
from orkestra.temporal.unconfined import unconfined_service

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")

EVERY: Final = timedelta(seconds=30)
_NO_POLL_FOR: Final = timedelta(seconds=150)
_ANSWER_WITHIN: Final = timedelta(seconds=3)
_ONE_IS_CHANCE: Final = 2

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
_KINDS: Final[Mapping[str, tuple[str, TaskQueueType.ValueType]]] = {
    _WORKFLOWS: ("workflow tasks", TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
    _ACTIVITIES: ("activities", TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
}


class PollerLook:
    """Asks the server from time to time whether it sees one worker poll.

    Args:
        worker: The worker.
        every: How often to ask.
        patience: For how long no new poll may be seen.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        every: timedelta = EVERY,
        patience: timedelta = _NO_POLL_FOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = worker.config()
        identity = config["identity"] if "identity" in config else None
        self._service = unconfined_service(worker.client)
        self._namespace = worker.client.namespace
        self._task_queue = worker.task_queue
        self._identity = identity or self._service.config.identity
        self._kinds = _kinds_of(worker)
        self._every = every.total_seconds()
        self._patience = patience.total_seconds()
        self._clock = clock
        self._asked_at = clock()
        self._newest: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._absences: dict[str, int] = {}
        self._problem: str | None = None

    async def problem(self, own: Readings | None) -> str | None:
        """Why the server gives the worker nothing; None where it does, or cannot be asked.

        Args:
            own: The worker's own figures, where there are some.
        """
        if not self._kinds or self._clock() - self._asked_at < self._every:
            return self._problem
        self._asked_at = self._clock()
        seen = await self._seen()
        if seen is None:
            self._forget()
        else:
            found = [self._judged(kind, seen.get(kind), own) for kind in self._kinds]
            self._problem = next((each for each in found if each), None)
        return self._problem

    async def _seen(self) -> Mapping[str, int] | None:
        """When the worker's last poll of each kind began, by the server's clock; None: unknown."""
        # The enhanced mode, because the other sees only one of the queue's partitions.
        request = DescribeTaskQueueRequest(
            namespace=self._namespace,
            task_queue=TaskQueue(name=self._task_queue),
            api_mode=DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED,
            versions=TaskQueueVersionSelection(unversioned=True, all_active=True),
            task_queue_types=[_KINDS[kind][1] for kind in self._kinds],
            report_pollers=True,
        )
        try:
            answer = await self._service.workflow_service.describe_task_queue(
                request, retry=False, timeout=_ANSWER_WITHIN
            )
        except RPCError as error:
            if error.status in _NOT_OFFERED:
                _logger.debug("The server does not say who polls: %s", error.message)
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
                    for poller in version.types_info[_KINDS[kind][1]].pollers
                    if poller.identity == self._identity
                ]
            )
        }

    def _judged(self, kind: str, newest: int | None, own: Readings | None) -> str | None:
        now = self._clock()
        is_free = kind == _WORKFLOWS if own is None else bool(own.free_slots.get(kind))
        if not is_free or newest != self._newest.get(kind):
            self._since[kind] = now
        self._absences[kind] = 0 if newest or not is_free else self._absences.get(kind, 0) + 1
        if newest is not None:
            self._newest[kind] = newest
        what = _KINDS[kind][0]
        if self._absences[kind] >= _ONE_IS_CHANCE:
            return f"the server has not seen {self._identity!r} poll for {what}"
        silence = now - self._since.setdefault(kind, now)
        if silence > self._patience:
            ago = f"in {silence:.0f} s"
            return f"the server has seen no poll of {self._identity!r} for {what} {ago}"
        return None

    def _forget(self) -> None:
        """Begin anew: who cannot be asked has not said no."""
        self._since.clear()
        self._absences.clear()
        self._problem = None


def _kinds_of(worker: Worker) -> tuple[str, ...]:
    """What the worker always polls for; nothing where that depends on versions."""
    config = worker.config()
    deployment = config["deployment_config"] if "deployment_config" in config else None
    if deployment is not None and deployment.use_worker_versioning:
        return ()
    # A limit to their rate holds the polls for activities back.
    limit = config["max_activities_per_second"] if "max_activities_per_second" in config else None
    has_activities = "activities" in config and bool(config["activities"])  # pyright: ignore[reportUnknownArgumentType] - the SDK leaves them untyped
    is_polled = {
        _WORKFLOWS: "workflows" in config and bool(config["workflows"]),
        _ACTIVITIES: has_activities and not limit,
    }
    return tuple(kind for kind, is_one in is_polled.items() if is_one)
