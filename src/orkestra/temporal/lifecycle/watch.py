"""Noticing within seconds that workers take no work, whatever they think of themselves."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from temporalio.client import Client

from orkestra.temporal.lifecycle.namespaces import NamespaceLook
from orkestra.temporal.lifecycle.pollers import EVERY, PollerLook
from orkestra.temporal.lifecycle.polling import PollJudge, Readings, read
from orkestra.temporal.lifecycle.status import Stage, Status, WorkerStatus
from orkestra.temporal.lifecycle.supervisor import Supervisor
from orkestra.temporal.telemetry import MeteredRuntime, runtime_of
from orkestra.temporal.unconfined import unconfined_service

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")

_PERIOD: Final = timedelta(seconds=2)


class Watch:
    """Looks every two seconds whether each namespace is served and each worker polls.

    Args:
        status: Where to say what is wrong.
        supervisors: The workers.
        search_attribute: What each namespace must have; None asks for nothing.
        period: Pause between two looks.
        every: Pause between two looks at what seldom changes.
    """

    def __init__(
        self,
        status: Status,
        supervisors: Sequence[Supervisor],
        *,
        search_attribute: str | None = None,
        period: timedelta = _PERIOD,
        every: timedelta = EVERY,
    ) -> None:
        self._status = status
        self._supervisors = supervisors
        self._period = period.total_seconds()
        self._judges = {each: PollJudge() for each in supervisors}
        self._pollers = {each: PollerLook(each.worker, every=every) for each in supervisors}
        self._namespaces = {
            _place(each.client): NamespaceLook(
                each.client, search_attribute=search_attribute, every=every
            )
            for each in supervisors
        }

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self._look()
            except Exception:
                _logger.exception("The state of the workers cannot be seen")
            await asyncio.sleep(self._period)

    async def _look(self) -> None:
        looks = self._namespaces.values()
        problems = await asyncio.gather(*(each.problem() for each in looks))
        found = dict(zip(self._namespaces, problems, strict=True))
        readings = await _readings(each.client for each in self._supervisors)
        for each in self._supervisors:
            each.status.unreachable = found[_place(each.client)]
            own = readings.get((each.status.namespace, each.status.task_queue))
            self._note(each.status, each.status.unreachable or await self._trouble(each, own))

    async def _trouble(self, each: Supervisor, own: Readings | None) -> str | None:
        """Why a worker takes no work although its namespace is served."""
        judged = None if own is None else self._judges[each].problem(own)
        lacking = await self._namespaces[_place(each.client)].incomplete()
        if judged or lacking or each.status.fault is not None:
            return judged or lacking
        return await self._pollers[each].problem(own)

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


def _place(client: Client) -> tuple[int, str]:
    """One namespace's name may stand for two of them, on two servers."""
    return id(unconfined_service(client)), client.namespace


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
