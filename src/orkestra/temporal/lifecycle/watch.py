"""Noticing within seconds that workers take no work, whatever they think of themselves."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import NamespaceState
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import ConnectionClosedError
from orkestra.temporal.lifecycle.polling import PollJudge, Readings, read
from orkestra.temporal.lifecycle.status import Stage, Status, WorkerStatus
from orkestra.temporal.lifecycle.supervisor import Supervisor
from orkestra.temporal.telemetry import MeteredRuntime, runtime_of
from orkestra.temporal.unconfined import unconfined_service

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")

_PERIOD: Final = timedelta(seconds=2)
_ANSWER_WITHIN: Final = timedelta(seconds=3)
_ONE_IS_CHANCE: Final = 2


class Watch:
    """Looks every two seconds whether each namespace is served and each worker polls.

    Args:
        status: Where to say what is wrong.
        supervisors: The workers.
        period: Pause between two looks.
    """

    def __init__(
        self, status: Status, supervisors: Sequence[Supervisor], *, period: timedelta = _PERIOD
    ) -> None:
        self._status = status
        self._supervisors = supervisors
        self._period = period.total_seconds()
        self._judges = {each: PollJudge() for each in supervisors}
        self._silences: dict[str, int] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self._look()
            except Exception:
                _logger.exception("The state of the workers cannot be seen")
            await asyncio.sleep(self._period)

    async def _look(self) -> None:
        clients = {each.status.namespace: each.client for each in self._supervisors}
        problems = await asyncio.gather(*map(self._namespace_problem, clients.values()))
        found = dict(zip(clients, problems, strict=True))
        self._status.unreachable = {name: why for name, why in found.items() if why}
        readings = await _readings(each.client for each in self._supervisors)
        for each in self._supervisors:
            problem = found[each.status.namespace]
            own = readings.get((each.status.namespace, each.status.task_queue))
            judged = None if own is None else self._judges[each].problem(own)
            self._note(each.status, problem or judged)

    def _note(self, worker: WorkerStatus, trouble: str | None) -> None:
        """Say what has changed."""
        if self._status.stage is Stage.RUNNING and worker.fault is None:
            if trouble is not None and trouble != worker.trouble:
                _logger.error(
                    "Worker of task queue %r takes no work: %s", worker.task_queue, trouble
                )
            elif worker.trouble is not None and trouble is None:
                _logger.warning("Worker of task queue %r takes work again", worker.task_queue)
        worker.trouble = trouble

    async def _namespace_problem(self, client: Client) -> str | None:
        name = client.namespace
        try:
            answer = await unconfined_service(client).workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=name), retry=False, timeout=_ANSWER_WITHIN
            )
        except RPCError as error:
            return self._failure(name, error)
        except ConnectionClosedError as error:
            return str(error)
        self._silences[name] = 0
        state = answer.namespace_info.state
        if state == NamespaceState.NAMESPACE_STATE_REGISTERED:
            return None
        shown = NamespaceState.Name(state).removeprefix("NAMESPACE_STATE_").lower()
        return f"namespace {name!r} is {shown}"

    def _failure(self, name: str, error: RPCError) -> str | None:
        if error.status is RPCStatusCode.NOT_FOUND:
            return f"namespace {name!r} does not exist any more"
        if error.status is RPCStatusCode.PERMISSION_DENIED:
            return None  # to poll and to describe are rights apart
        self._silences[name] = self._silences.get(name, 0) + 1
        if self._silences[name] < _ONE_IS_CHANCE:
            return self._status.unreachable.get(name)
        return f"the server does not answer: {error.status.name}"


async def _readings(clients: Iterable[Client]) -> dict[tuple[str, str], Readings]:
    runtimes = {id(found): found for client in clients if (found := runtime_of(client))}
    merged: dict[tuple[str, str], Readings] = {}
    for runtime in runtimes.values():
        merged |= read(await asyncio.to_thread(_text, runtime))
    return merged


def _text(runtime: MeteredRuntime) -> str:
    try:
        return runtime.metrics_text()
    except OSError as error:
        _logger.warning("%s", error)
        return ""
