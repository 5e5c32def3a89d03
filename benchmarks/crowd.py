"""Work of many tenants, each with its own client."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from temporalio.client import Client

from benchmarks.scenarios import CONCURRENCY, SCENARIOS
from benchmarks.workloads.plain import greet
from orkestra import TemporalConnectionManager

_RUN = SCENARIOS["one activity"].run


class Crowd:
    """Tenants that share a worker; the bare SDK has none, and does the same work for nobody.

    Args:
        manager: Makes the clients of tenants; None where there are none.
        client: The client where there are none.
        queue: Where the work goes.
    """

    def __init__(
        self, manager: TemporalConnectionManager | None, client: Client, queue: str
    ) -> None:
        self._manager = manager
        self._client = client
        self._queue = queue
        self._clients: list[Client] = []
        self._turn = 0

    async def grow(self, size: int) -> None:
        """Grow to this number of tenants, and run one activity for each new one."""
        newcomers = range(len(self._clients), size)
        self._clients += [await self._client_of(number) for number in newcomers]
        if self._manager is not None:
            await _some_at_once(self._greet, (self._clients[number] for number in newcomers))

    async def run(self, count: int) -> None:
        """Run this number of workflows of one activity, for the tenants in turn."""
        turns = range(self._turn, self._turn + count)
        self._turn += count
        size = len(self._clients)
        await _some_at_once(self._workflow, (self._clients[turn % size] for turn in turns))

    async def _client_of(self, number: int) -> Client:
        if self._manager is None:
            return self._client
        return await self._manager.get_client(tenant=f"tenant-{number}")

    async def _greet(self, client: Client) -> None:
        """Run the cheapest work of a worker: one standalone activity."""
        await client.execute_activity(
            greet,
            "you",
            id=str(uuid.uuid4()),
            task_queue=self._queue,
            start_to_close_timeout=timedelta(seconds=60),
        )

    async def _workflow(self, client: Client) -> None:
        await _RUN(client, self._queue, 1)


async def _some_at_once(
    work: Callable[[Client], Awaitable[None]], clients: Iterable[Client]
) -> None:
    left = iter(clients)

    async def worker() -> None:
        for client in left:
            await work(client)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
