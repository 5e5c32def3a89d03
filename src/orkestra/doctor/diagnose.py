"""`diagnose()`: everything that has to be right before work can flow, in the order it is used.

Whether the server deals out tasks fairly, seen from what it does: it does not say.

A few activities of one fairness key stand in a queue before fewer of another. A server that is fair
hands out the few early; one that is not, at the end.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
)
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError

from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.directory import StaticTenantDirectory, TenantDirectory
from orkestra.doctor.checks import (
    QUEUE,
    Diagnosis,
    Finding,
    examine_clocks,
    examine_langfuse,
    examine_namespace,
    examine_network,
    examine_ownership,
    examine_queue,
)
from orkestra.errors import ConnectionFailedError
from orkestra.temporal.guard import unguarded_client
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.tenancy import ALL_TENANTS

_CALLS: Final = 4
"""The probe of fairness makes many calls: it may take as long as so many steps."""


async def diagnose(
    config: OrkestraConfig,
    *,
    directory: TenantDirectory | None = None,
    task_queues: Sequence[str] = (),
    timeout: timedelta = timedelta(seconds=5),
    probe_fairness: bool = False,
) -> Diagnosis:
    """Look at everything that workflows need: network, server, namespaces, workers, Langfuse.

    What is wrong is no error: it stands in the diagnosis, with what to do about it.

    Args:
        config: What would be used.
        directory: Knows the tenants; None means those of the configuration.
        task_queues: Queues of the configured namespace that workers should poll; those that the
            directory gives to single tenants are looked at, too.
        timeout: How long each step may take.
        probe_fairness: Also find out whether the server is fair, by starting 132 activities on a
            queue of the doctor's own; they end within a minute.

    Returns:
        What was found.

    Example:
        ```python
        diagnosis = await diagnose(OrkestraConfig.load(), task_queues=["orders"])
        for problem in diagnosis.problems:
            print(f"{problem.name}: {problem.detail}; {problem.mend}")
        ```
    """
    found = await examine_network(config.temporal, timeout=timeout)
    if all(finding.ok for finding in found):
        found += [
            finding
            async for finding in _Service(config, directory, timeout).examine(
                task_queues, probe_fairness=probe_fairness
            )
        ]
    found += await examine_langfuse(config, timeout=timeout)
    return Diagnosis(tuple(found))


class _Service:
    """One look at the Temporal service."""

    def __init__(
        self, config: OrkestraConfig, directory: TenantDirectory | None, timeout: timedelta
    ) -> None:
        self._config = config
        self._directory = directory or StaticTenantDirectory.from_settings(config.tenants)
        self._timeout = timeout

    async def examine(
        self, task_queues: Sequence[str], *, probe_fairness: bool
    ) -> AsyncIterator[Finding]:
        temporal = self._config.temporal.model_copy(
            update={"connect_deadline": self._timeout, "verify_namespace": False}
        )
        untraced = {"temporal": temporal, "langfuse": LangfuseSettings()}
        manager = TemporalConnectionManager(
            self._config.model_copy(update=untraced), directory=self._directory
        )
        async with manager:
            try:
                client = await manager.get_client(namespace=temporal.namespace, tenant=ALL_TENANTS)
            except ConnectionFailedError as error:
                yield Finding("connection", ok=False, detail=str(error))
                return
            async for finding in self._places(manager, client, task_queues):
                yield finding
            yield await examine_clocks(client, timeout=self._timeout)
            async for finding in self._tenancy(client, probe_fairness=probe_fairness):
                yield finding

    async def _places(
        self, manager: TemporalConnectionManager, client: Client, task_queues: Sequence[str]
    ) -> AsyncIterator[Finding]:
        """The namespaces, and the queues that somebody should poll."""
        shared = client.namespace
        dedicated = await self._directory.dedicated()
        namespaces = {record.namespace or shared for record in dedicated}
        for namespace in [shared, *sorted(namespaces - {shared})]:
            there = await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)
            for finding in await examine_namespace(
                there, self._config, timeout=self._timeout, is_first=namespace == shared
            ):
                yield finding
        wanted = [(shared, queue) for queue in task_queues]
        for record in dedicated:
            wanted += [(record.namespace or shared, own) for own in record.task_queues.values()]
        for namespace, queue in dict.fromkeys(wanted):
            there = await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)
            for finding in await examine_queue(there, queue, timeout=self._timeout):
                yield finding

    async def _tenancy(self, client: Client, *, probe_fairness: bool) -> AsyncIterator[Finding]:
        tenancy = self._config.tenancy
        if tenancy.mode == "off":
            return
        if tenancy.fairness and probe_fairness:
            yield await examine_fairness(client, timeout=_CALLS * self._timeout)
        elif tenancy.fairness:
            detail = "the server does not say whether it is fair: --probe-fairness finds out"
            yield Finding("fairness", ok=None, detail=detail)
        if tenancy.workflow_ids == "scoped":
            yield await examine_ownership(client, timeout=self._timeout)


_MANY: Final = 120
_FEW: Final = 12
_POLLERS: Final = 4
_LIFE: Final = timedelta(seconds=60)
_MEND: Final = (
    "set matching.useNewMatcher and matching.enableFairness in the server's dynamic configuration"
)


async def examine_fairness(client: Client, *, timeout: timedelta) -> Finding:
    """Start short-lived activities on a queue of the doctor's own, and see in which order they go.

    Args:
        client: A client that may start standalone activities.
        timeout: How long it may take.

    Returns:
        Whether the server is fair; open where it knows no standalone activities.
    """
    bare = unguarded_client(client)
    queue = f"{QUEUE}-{uuid.uuid4().hex[:8]}"
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            for key, count in (("many", _MANY), ("few", _FEW)):
                await asyncio.gather(*(_start(bare, queue, key) for _ in range(count)))
            order = await _served(bare, queue)
    except (RPCError, TimeoutError) as error:
        why = error.message if isinstance(error, RPCError) else "no answer in time"
        return Finding("fairness", ok=None, detail=f"cannot be told: {why}")
    first = order.index("few") + 1
    detail = f"the first of {_FEW} tasks behind {_MANY} was handed out as number {first}"
    # Seen with the usual four partitions: 7 to 20 where it is on, 50 to 81 where it is off.
    if first <= _MANY // 4:
        return Finding("fairness", ok=True, detail=detail)
    return Finding("fairness", ok=False, detail=f"{detail}: fairness is off", mend=_MEND)


async def _start(client: Client, queue: str, key: str) -> None:
    await client.start_activity(
        QUEUE,
        key,
        id=f"{queue}-{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        schedule_to_close_timeout=_LIFE,
        priority=Priority(fairness_key=f"{QUEUE}-{key}"),
    )


async def _served(client: Client, queue: str) -> list[str]:
    """Take and complete all the tasks; the fairness keys in the order in which they came."""
    order: list[str] = []
    pollers = [asyncio.ensure_future(_serve(client, queue, order)) for _ in range(_POLLERS)]
    try:
        done, _ = await asyncio.wait(pollers, return_when=asyncio.FIRST_COMPLETED)
        for poller in done:
            poller.result()
    finally:
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
    return order


async def _serve(client: Client, queue: str, order: list[str]) -> None:
    poll = PollActivityTaskQueueRequest(
        namespace=client.namespace, identity=QUEUE, task_queue=TaskQueue(name=queue)
    )
    while len(order) < _MANY + _FEW:
        task = await client.workflow_service.poll_activity_task_queue(poll)
        if not task.task_token:
            continue
        order.append(task.priority.fairness_key.removeprefix(f"{QUEUE}-"))
        await client.workflow_service.respond_activity_task_completed(
            RespondActivityTaskCompletedRequest(
                namespace=client.namespace, task_token=task.task_token, identity=QUEUE
            )
        )
