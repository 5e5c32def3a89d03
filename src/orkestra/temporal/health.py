"""`check_temporal_health()`: whether a client can work, and if not, why not.

One deadline covers all checks. Each check has three results: passed, failed, or unknown, because
the client is not permitted to ask or the server does not support the question. An unknown result is
not a failure, except for the pollers of a task queue: who asks for them needs to see them.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

from temporalio.api.enums.v1 import NamespaceState, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import (
    ConfigurationError,
    ConnectionClosedError,
    ConnectionFailedError,
    TenantError,
)
from orkestra.temporal.guard import unguarded_client
from orkestra.temporal.search_attributes import (
    DEFAULT_NAME,
    AttributeState,
    look_up_search_attribute,
)


@dataclass(frozen=True)
class HealthCheck:
    """Result of one check.

    Attributes:
        name: `connection`, `server`, `namespace`, `search_attribute`, `workflow_pollers` or
            `activity_pollers`.
        ok: True if it passed, False if it failed, None if the result is unknown.
        detail: What was found, or why the result is unknown.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class HealthReport:
    """Result of `check_temporal_health()`; truthy if healthy.

    Attributes:
        address: Address of the server.
        namespace: Namespace of the client.
        checks: All checks that were made.
        reachable: A server answered, in whatever state it is.
        server_version: Version of the server, if it reported one.
        latency: Round trip of one small call, if it was answered.
    """

    address: str
    namespace: str
    checks: tuple[HealthCheck, ...]
    reachable: bool
    server_version: str | None = None
    latency: timedelta | None = None

    @classmethod
    def of_failed_connection(cls, error: ConnectionFailedError, *, namespace: str) -> Self:
        """Report that not even a client could be made.

        Args:
            error: The failure to connect.
            namespace: The namespace that the client would have had.
        """
        check = HealthCheck("connection", ok=False, detail=str(error))
        return cls(error.address, namespace, (check,), reachable=False)

    def __bool__(self) -> bool:
        return self.healthy

    @property
    def healthy(self) -> bool:
        """True if a server answered and no check failed."""
        return self.reachable and not self.problems

    @property
    def problems(self) -> tuple[HealthCheck, ...]:
        """Checks that failed."""
        return tuple(check for check in self.checks if check.ok is False)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON; `latency_ms` is in milliseconds."""
        latency = None if self.latency is None else self.latency.total_seconds() * 1000
        return {
            "healthy": self.healthy,
            "reachable": self.reachable,
            "address": self.address,
            "namespace": self.namespace,
            "server_version": self.server_version,
            "latency_ms": latency,
            "checks": [asdict(check) for check in self.checks],
        }


_NO_ANSWER: Final = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
)

# An idle worker polls again every minute, and the server lists it for five minutes after its last
# poll, even if it is gone. The second minute allows for clocks that differ.
_LIVE_POLLER_SECONDS: Final = 120.0

_POLLER_KINDS: Final = {
    "workflow_pollers": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    "activity_pollers": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
}

_T = TypeVar("_T")


async def check_temporal_health(
    client: Client,
    *,
    timeout: timedelta = timedelta(seconds=5),
    task_queue: str | None = None,
    search_attribute: str | None = DEFAULT_NAME,
) -> HealthReport:
    r"""Check that the server answers and that the client's namespace is usable.

    An unhealthy server does not raise: the report says what is wrong with it.

    Args:
        client: A client of the server and namespace to check. If it is bound to a tenant, the
            results that it is not permitted to see are unknown.
        timeout: Deadline of all checks together.
        task_queue: Also check that workers poll this task queue.
        search_attribute: Name of the tenant search attribute; None skips its check.

    Returns:
        A report that is truthy if healthy.

    Raises:
        ConfigurationError: The task queue is empty, or the timeout is not positive.

    Example:
        ```python
        report = await check_temporal_health(client, task_queue="orders")
        if not report:
            print(*(f"{check.name}: {check.detail}" for check in report.problems), sep="\n")
        ```
    """
    if task_queue is not None and not task_queue.strip():
        msg = f"task queue {task_queue!r} is empty: give a name, or leave it out"
        raise ConfigurationError(msg)
    if timeout <= timedelta():
        msg = f"timeout {timeout!r} is not positive: give the checks some time"
        raise ConfigurationError(msg)
    return await _HealthProbe(client, timeout).run(task_queue, search_attribute)


class _ProblemError(Exception):
    """Failed check; its message becomes the detail."""

    ok: bool | None = False


class _UnreachableError(_ProblemError):
    """No server answered."""


class _UnknownError(_ProblemError):
    """The check could not be made."""

    ok = None


class _HealthProbe:
    def __init__(self, client: Client, timeout: timedelta) -> None:
        self._client = unguarded_client(client)
        self._timeout = timeout
        self._deadline = asyncio.get_running_loop().time() + timeout.total_seconds()
        self._reachable = True
        self._version: str | None = None
        self._latency: timedelta | None = None

    async def run(self, task_queue: str | None, search_attribute: str | None) -> HealthReport:
        checks = [await self._check("connection", self._connection())]
        if self._reachable:
            # Before the others, so that they do not count in the latency.
            checks.append(await self._check("server", self._server()))
            single = [self._check("namespace", self._namespace())]
            if search_attribute is not None:
                attribute = self._search_attribute(search_attribute)
                single.append(self._check("search_attribute", attribute))
            for found in await asyncio.gather(asyncio.gather(*single), self._pollers(task_queue)):
                checks += found
        return HealthReport(
            address=self._client.service_client.config.target_host,
            namespace=self._client.namespace,
            checks=tuple(checks),
            reachable=self._reachable,
            server_version=self._version,
            latency=self._latency,
        )

    async def _check(self, name: str, probe: Awaitable[str]) -> HealthCheck:
        try:
            return HealthCheck(name, ok=True, detail=await self._ask(probe))
        except _ProblemError as problem:
            self._reachable = self._reachable and not isinstance(problem, _UnreachableError)
            return HealthCheck(name, ok=problem.ok, detail=str(problem))

    async def _ask(self, probe: Awaitable[_T]) -> _T:
        """Await a probe within the deadline, and raise its failures as `_ProblemError`."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await probe
        except TimeoutError:
            msg = f"unreachable: no answer within {self._timeout.total_seconds():g} s"
            raise _UnreachableError(msg) from None
        except RPCError as error:
            if error.status in _NO_ANSWER:
                msg = f"unreachable: {error.message}"
                raise _UnreachableError(msg) from None
            if error.status is RPCStatusCode.UNIMPLEMENTED:
                msg = f"this server does not support the check ({error.message})"
                raise _UnknownError(msg) from None
            msg = f"{error.status.name}: {error.message}"
            raise _ProblemError(msg) from None
        except TenantError as error:
            msg = f"not visible to this client: {error}"
            raise _UnknownError(msg) from None
        except (ConnectionFailedError, ConnectionClosedError) as error:
            msg = f"unreachable: {error}"
            raise _UnreachableError(msg) from None

    async def _connection(self) -> str:
        try:
            serving = await self._client.service_client.check_health(timeout=self._timeout)
        except RuntimeError as error:  # a lazy client of the SDK that cannot connect
            msg = f"unreachable: {error}"
            raise _UnreachableError(msg) from None
        if not serving:
            msg = "the server reports that it is not serving"
            raise _ProblemError(msg)
        return "the server is serving"

    async def _server(self) -> str:
        started = time.perf_counter()
        info = await self._client.workflow_service.get_system_info(
            GetSystemInfoRequest(), timeout=self._timeout
        )
        self._latency = timedelta(seconds=time.perf_counter() - started)
        self._version = info.server_version or None
        shown = f"Temporal {self._version}" if self._version else "version unknown"
        return f"{shown}, round trip {self._latency.total_seconds() * 1000:.1f} ms"

    async def _namespace(self) -> str:
        name = self._client.namespace
        try:
            found = await self._client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=name), timeout=self._timeout
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            msg = f"{name!r} does not exist"
            raise _ProblemError(msg) from None
        state = found.namespace_info.state
        detail = (
            f"{name!r} is {NamespaceState.Name(state).removeprefix('NAMESPACE_STATE_').lower()}"
        )
        if state != NamespaceState.NAMESPACE_STATE_REGISTERED:
            raise _ProblemError(detail)
        return detail

    async def _search_attribute(self, name: str) -> str:
        status = await look_up_search_attribute(self._client, name=name, timeout=self._timeout)
        if status.state is AttributeState.USABLE:
            return status.detail
        advice = ": run `orkestra search-attributes ensure`"
        if status.state is AttributeState.OTHER_TYPE:
            advice = ""
        raise _ProblemError(status.detail + advice)

    async def _pollers(self, task_queue: str | None) -> list[HealthCheck]:
        if task_queue is None:
            return []
        try:
            found = await self._ask(self._poll_ages(task_queue))
        except _ProblemError as problem:
            # Unknown is a failure here: the caller wants to see pollers.
            return [HealthCheck(name, ok=False, detail=str(problem)) for name in _POLLER_KINDS]
        # A queue may have work of one kind only.
        without = None if any(found) else False
        return [
            HealthCheck(name, ok=bool(ages) or without, detail=_poller_detail(task_queue, ages))
            for name, ages in zip(_POLLER_KINDS, found, strict=True)
        ]

    async def _poll_ages(self, task_queue: str) -> list[list[float]]:
        """Seconds since the last poll of each live poller, for each kind of task."""
        found: list[list[float]] = []
        for kind in _POLLER_KINDS.values():
            queue = await self._client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self._client.namespace,
                    task_queue=TaskQueue(name=task_queue),
                    task_queue_type=kind,
                ),
                timeout=self._timeout,
            )
            times = [poller.last_access_time.ToMilliseconds() / 1000 for poller in queue.pollers]
            ages = [max(0.0, time.time() - polled) for polled in times]
            found.append([age for age in ages if age < _LIVE_POLLER_SECONDS])
        return found


def _poller_detail(task_queue: str, ages: Sequence[float]) -> str:
    if not ages:
        return f"no worker has polled {task_queue!r} in the last {_LIVE_POLLER_SECONDS:g} s"
    workers = f"{len(ages)} workers" if len(ages) > 1 else "1 worker"
    return f"{workers} polled {task_queue!r}, last {min(ages):.1f} s ago"
