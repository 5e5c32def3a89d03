"""`check_temporal_health()`: can this client work, and if not, why not.

One deadline spans all checks. Each has three outcomes: it passed, it failed, or it could not be
made, because the client may not ask or the server does not offer it. The last is no failure.

What a look at the server's health found.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

from temporalio.api.enums.v1 import NamespaceState, TaskQueueType
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
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
    """One thing that was looked at.

    Attributes:
        name: `connection`, `server`, `namespace`, `search_attribute`, `workflow_pollers` or
            `activity_pollers`.
        ok: True where all is well, False where not, None where nothing can be said.
        detail: What was found, or why nothing can be said.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class HealthReport:
    """What `check_temporal_health()` found; truthy when healthy.

    Attributes:
        address: The server that was asked.
        namespace: The namespace of the client.
        checks: Everything that was looked at.
        reachable: Whether a server answered, in whatever state it is.
        server_version: The server's version, where it told it.
        latency: Round trip of one small call, where it was answered.
    """

    address: str
    namespace: str
    checks: tuple[HealthCheck, ...]
    reachable: bool
    server_version: str | None = None
    latency: timedelta | None = None

    @classmethod
    def of_failed_connection(cls, error: ConnectionFailedError, *, namespace: str) -> Self:
        """The report where not even a client could be made.

        Args:
            error: Why not.
            namespace: The namespace that the client would have had.
        """
        check = HealthCheck("connection", ok=False, detail=str(error))
        return cls(error.address, namespace, (check,), reachable=False)

    def __bool__(self) -> bool:
        return self.healthy

    @property
    def healthy(self) -> bool:
        """Whether a server answered and no check failed."""
        return self.reachable and not self.problems

    @property
    def problems(self) -> tuple[HealthCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.ok is False)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON would have it; the latency is `latency_ms`, in milliseconds."""
        latency = None if self.latency is None else self.latency.total_seconds() * 1000
        return {
            "healthy": self.healthy,
            "reachable": self.reachable,
            "address": self.address,
            "namespace": self.namespace,
            "server_version": self.server_version,
            "latency_ms": latency,
            "checks": [
                {"name": check.name, "ok": check.ok, "detail": check.detail}
                for check in self.checks
            ],
        }


_UNREACHABLE: Final = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
)

# An idle worker polls again every minute, and the server lists it for five minutes after its last
# poll, also where it is gone. The second minute is room for clocks that differ.
_LIVE_POLLER: Final = 120.0

_POLLER_KINDS: Final = {
    "workflow_pollers": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    "activity_pollers": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
}

_ENSURE: Final = ": run `orkestra search-attributes ensure`"

_T = TypeVar("_T")


async def check_temporal_health(
    client: Client,
    *,
    timeout: timedelta = timedelta(seconds=5),
    task_queue: str | None = None,
    search_attribute: str | None = DEFAULT_NAME,
) -> HealthReport:
    r"""Look whether the server answers and whether the client's namespace can be worked in.

    An unhealthy server is no error: the report says what is wrong with it.

    Args:
        client: The client whose server and namespace are looked at. A tenant's client may not ask
            everything; what it may not ask stays open in the report.
        timeout: Deadline of all checks together.
        task_queue: Also look for workers that poll this task queue.
        search_attribute: Name of the tenant search attribute; None leaves it out.

    Returns:
        A report that is truthy when healthy.

    Raises:
        ConfigurationError: The task queue is empty, or the time-out not positive.

    Example:
        ```python
        report = await check_temporal_health(client, task_queue="orders")
        if not report:
            print(*(f"{check.name}: {check.detail}" for check in report.problems), sep="\n")
        ```
    """
    if task_queue is not None and not task_queue.strip():
        msg = f"task queue {task_queue!r} is empty: name one, or leave it out"
        raise ConfigurationError(msg)
    if timeout <= timedelta():
        msg = f"time-out {timeout!r} is not positive: give the checks some time"
        raise ConfigurationError(msg)
    return await _Examination(client, timeout).examine(task_queue, search_attribute)


class _TroubleError(Exception):
    """A check did not pass, for the reason that its message gives."""

    ok: bool | None = False


class _UnreachableError(_TroubleError):
    """Nobody answered."""


class _OpenError(_TroubleError):
    """Nothing can be said."""

    ok = None


class _Examination:
    """One run of all the checks."""

    def __init__(self, client: Client, timeout: timedelta) -> None:
        self._client = unguarded_client(client)
        self._timeout = timeout
        self._deadline = asyncio.get_running_loop().time() + timeout.total_seconds()
        self._reachable = True
        self._version: str | None = None
        self._latency: timedelta | None = None

    async def examine(self, task_queue: str | None, search_attribute: str | None) -> HealthReport:
        checks = [await self._check("connection", self._connection())]
        if self._reachable:
            # Before the others, so that they do not count in the latency.
            checks += [await self._check("server", self._server())]
            namespace, attribute, pollers = await asyncio.gather(
                self._check("namespace", self._namespace()),
                self._search_attribute(search_attribute),
                self._pollers(task_queue),
            )
            checks += [namespace, *attribute, *pollers]
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
        except _TroubleError as trouble:
            self._reachable = self._reachable and not isinstance(trouble, _UnreachableError)
            return HealthCheck(name, ok=trouble.ok, detail=str(trouble))

    async def _ask(self, probe: Awaitable[_T]) -> _T:
        """Await a probe within the deadline, whatever goes wrong as a `_TroubleError`."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await probe
        except TimeoutError:
            msg = f"unreachable: no answer within {self._timeout.total_seconds():g} s"
            raise _UnreachableError(msg) from None
        except RPCError as error:
            raise _trouble(error) from None
        except TenantError as error:
            msg = f"not visible to this client: {error}"
            raise _OpenError(msg) from None
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
            msg = "the server answers that it is not serving"
            raise _TroubleError(msg)
        return "the server answers and is serving"

    async def _server(self) -> str:
        started = time.perf_counter()
        info = await self._client.workflow_service.get_system_info(
            GetSystemInfoRequest(), timeout=self._timeout
        )
        self._latency = timedelta(seconds=time.perf_counter() - started)
        self._version = info.server_version or None
        shown = f"Temporal {self._version}" if self._version else "its version is not told"
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
            raise _TroubleError(msg) from None
        state = found.namespace_info.state
        shown = NamespaceState.Name(state).removeprefix("NAMESPACE_STATE_").lower()
        if state != NamespaceState.NAMESPACE_STATE_REGISTERED:
            msg = f"{name!r} is {shown}"
            raise _TroubleError(msg)
        return f"{name!r} is {shown}"

    async def _search_attribute(self, name: str | None) -> list[HealthCheck]:
        if name is None:
            return []
        return [await self._check("search_attribute", self._attribute(name))]

    async def _attribute(self, name: str) -> str:
        status = await look_up_search_attribute(self._client, name=name, timeout=self._timeout)
        if status.state is AttributeState.USABLE:
            return status.detail
        advice = "" if status.state is AttributeState.OTHER_TYPE else _ENSURE
        raise _TroubleError(status.detail + advice)

    async def _pollers(self, task_queue: str | None) -> list[HealthCheck]:
        if task_queue is None:
            return []
        try:
            found = await self._ask(self._live_pollers(task_queue))
        except _TroubleError as trouble:
            # Asked for and not seen is no success, whosever fault it is.
            return [HealthCheck(name, ok=False, detail=str(trouble)) for name in _POLLER_KINDS]
        # A queue may well have work of one kind only.
        without = None if any(found) else False
        return [
            HealthCheck(name, ok=bool(ages) or without, detail=_say_pollers(task_queue, ages))
            for name, ages in zip(_POLLER_KINDS, found, strict=True)
        ]

    async def _live_pollers(self, task_queue: str) -> list[list[float]]:
        """How long ago each live poller polled, in seconds, for each kind of task."""
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
            found.append([age for age in map(_age, queue.pollers) if age < _LIVE_POLLER])
        return found


def _age(poller: PollerInfo) -> float:
    return max(0.0, time.time() - poller.last_access_time.ToMilliseconds() / 1000)


def _say_pollers(task_queue: str, ages: Sequence[float]) -> str:
    if not ages:
        return f"no worker has polled {task_queue!r} for this in the last {_LIVE_POLLER:g} s"
    workers = f"{len(ages)} workers" if len(ages) > 1 else "1 worker"
    return f"{workers} polled {task_queue!r}, last {min(ages):.1f} s ago"


def _trouble(error: RPCError) -> _TroubleError:
    if error.status in _UNREACHABLE:
        return _UnreachableError(f"unreachable: {error.message}")
    if error.status is RPCStatusCode.UNIMPLEMENTED:
        return _OpenError(f"this server does not offer it ({error.message})")
    return _TroubleError(f"{error.status.name}: {error.message}")
