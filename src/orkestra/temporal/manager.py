"""`TemporalConnectionManager`: one connection for all namespaces and tenants of a process.

Many coroutines may need the connection at the same time, some of them cancel, and one may close the
manager meanwhile. So opening is a single flight that all of them join, and `_until_closed()` tells
a caller's own cancellation from that by `close()`.
"""

import asyncio
import http.client
import itertools
import logging
import os
import socket
import weakref
from collections.abc import Awaitable, Sequence
from dataclasses import asdict
from functools import cache, partial
from types import TracebackType
from typing import Final, Self, TypeVar

from temporalio.client import Client, Interceptor, Plugin
from temporalio.converter import DataConverter
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from orkestra.caches import SingleFlight
from orkestra.config import OrkestraConfig
from orkestra.directory import Placements, TenantDirectory
from orkestra.errors import ConfigurationError, ConnectionClosedError
from orkestra.temporal.connection import (
    Connection,
    ConnectionCounters,
    ConnectionState,
    ConnectionStatistics,
    open_connection,
    require_idle,
    verify_namespace,
)
from orkestra.temporal.guard import unguarded_service
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.tenancy import AllTenants

_Result = TypeVar("_Result")
_METRICS_HOST: Final = "127.0.0.1"
_METRICS_SECONDS: Final = 3.0
_PORT_ATTEMPTS: Final = 10


class TemporalConnectionManager:
    """Owner of one connection, opened when it is first needed, and maker of clients on it.

    Clients of any namespace and tenant share the connection, or take turns on
    `temporal.pool_size` connections; making a client costs no call. If the manager is dropped
    without `close()`, the connection lives as long as its clients.

    Args:
        config: The configuration; None loads it as `OrkestraConfig.load()` does.
        plugins: Plugins of every client; Orkestra's own comes last, next to the server.
        interceptors: Interceptors of every client.
        data_converter: Converter for arguments and results.
        runtime: Runtime of the SDK's core; None means its default one.
        directory: The tenants; None means those of the configuration, or, where it names none,
            that every well-formed tenant is known.

    Example:
        ```python
        async with TemporalConnectionManager(config) as manager:
            acme = await manager.get_client(tenant="acme")
            beta = await manager.get_client(tenant="beta", namespace="staging")
        ```
    """

    def __init__(
        self,
        config: OrkestraConfig | None = None,
        *,
        plugins: Sequence[Plugin] = (),
        interceptors: Sequence[Interceptor] = (),
        data_converter: DataConverter = DataConverter.default,
        runtime: Runtime | None = None,
        directory: TenantDirectory | None = None,
    ) -> None:
        self.config: OrkestraConfig = config or OrkestraConfig.load()
        self._plugins = tuple(plugins)
        self._interceptors = tuple(interceptors)
        self._data_converter = data_converter
        self._runtime = runtime
        self._plugin = OrkestraPlugin(self.config, directory=directory)
        self._shared: dict[int, Connection] = {}
        self._turns = itertools.cycle(range(self.config.temporal.pool_size))
        self._counters = ConnectionCounters()
        self._dedicated: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._openings = SingleFlight[Connection]()
        self._checks = SingleFlight[None]()
        self._verified: set[str] = set()
        self._is_closed = False

    @property
    def placements(self) -> Placements:
        """Directory of the tenants."""
        return self._plugin.placements

    @property
    def statistics(self) -> ConnectionStatistics:
        """Snapshot of the connections of this manager, without a call to the server."""
        shared = list(self._shared.values())
        connections = [each for each in (*shared, *self._dedicated) if not each.is_closed]
        return ConnectionStatistics(
            **asdict(self._counters),
            state=self._state([each.state for each in shared]),
            connections=len(connections),
            calls_in_flight=sum(each.calls_in_flight for each in connections),
            calls_waiting=sum(each.calls_waiting for each in connections),
            workers=sum(len(each.workers) for each in connections),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def get_client(
        self,
        *,
        namespace: str | None = None,
        tenant: str | AllTenants | None = None,
        dedicated: bool = False,
        plugins: Sequence[Plugin] = (),
        interceptors: Sequence[Interceptor] = (),
        data_converter: DataConverter = DataConverter.default,
    ) -> Client:
        """Make a client, opening the connection where there is none yet.

        Concurrent callers wait for the same attempt; if it fails, each of them gets the error, and
        the next call tries again.

        Args:
            namespace: None means the tenant's own where the directory gives it one, else
                `temporal.namespace`.
            tenant: The tenant that the client is bound to; None means that each call acts for
                `current_tenant()`; `ALL_TENANTS` makes an operator's client.
            dedicated: Open a connection for this client only; the manager closes it, too.
            plugins: More plugins of this client, after the manager's. The connection is shared, so
                their `connect_service_client` is not called.
            interceptors: More interceptors of this client.
            data_converter: The default means the manager's.

        Returns:
            The SDK's own client.

        Raises:
            ConnectionFailedError: The connection could not be opened, or `verify_namespace` is set
                and the namespace does not exist.
            ConnectionClosedError: The manager is closed, or was used before this process was
                forked.
            InvalidTenantError: The tenant is malformed.
            UnknownTenantError: The directory does not know the tenant.
            TenantMismatchError: The directory places the tenant in another namespace.
            DirectoryUnavailableError: The directory gave no answer.
            ConfigurationError: The namespace is empty.
        """
        name = self.config.temporal.namespace if namespace is None else namespace
        if not name:
            msg = f"namespace {name!r} is empty: pass a name, or None for the configured one"
            raise ConfigurationError(msg)
        plugin = self._plugin if tenant is None else self._plugin.for_tenant(tenant)
        if isinstance(tenant, str) and not self.placements.is_open:
            placement = await self.placements.of(tenant)
            name = placement.namespace or name if namespace is None else name
            placement.require_namespace(name)
        connection = await self._connection(dedicated=dedicated)
        if self.config.temporal.verify_namespace and name not in self._verified:
            await self._until_closed(
                self._checks.join(name, partial(self._verify, connection, name))
            )
        is_default = data_converter is DataConverter.default
        return Client(
            plugin.guard(connection.service_client, namespace=name),
            namespace=name,
            plugins=[*self._plugins, *plugins, plugin],
            interceptors=[*self._interceptors, *interceptors],
            data_converter=self._data_converter if is_default else data_converter,
        )

    async def close(self) -> None:
        """Close every connection, also under clients that are still in use.

        Spans that wait are sent after that, within `langfuse.flush_timeout`. It may be called
        again, and while a connection is being opened.

        Raises:
            WorkersRunningError: Workers run on a connection; nothing was closed.
        """
        connections = [*self._dedicated, *self._shared.values()]
        require_idle(*connections)
        self._is_closed = True
        await self._openings.cancel()
        await self._checks.cancel()
        for connection in connections:
            await connection.close()
        await self._plugin.close()

    async def _connection(self, *, dedicated: bool) -> Connection:
        if self._is_closed:
            raise self._closed_error()
        if dedicated:
            return await self._until_closed(self._openings.join(object(), self._open_dedicated))
        turn = next(self._turns)
        connection = self._shared.get(turn)
        if connection is None or connection.is_closed:
            opening = self._openings.join(turn, partial(self._open_shared, turn))
            connection = await self._until_closed(opening)
        connection.check_usable()
        return connection

    async def _open_shared(self, turn: int) -> Connection:
        connection = await self._open()
        present = self._shared.get(turn)
        if present is not None and not present.is_closed:  # another event loop was faster
            await connection.close()
            return present
        self._shared[turn] = connection
        return connection

    async def _open_dedicated(self) -> Connection:
        connection = await self._open()
        self._dedicated.add(connection)
        return connection

    async def _open(self) -> Connection:
        # `get_client()` verifies the namespace of each client.
        settings = self.config.temporal.model_copy(update={"verify_namespace": False})
        connection = await open_connection(
            settings, runtime=self._runtime, plugins=self._plugins, counters=self._counters
        )
        if self._is_closed:
            await connection.close()
            raise self._closed_error()
        connection.belongs_to(self)
        return connection

    async def _verify(self, connection: Connection, namespace: str) -> None:
        timeout = self.config.temporal.connect_deadline
        await verify_namespace(connection, namespace, timeout=timeout)
        self._verified.add(namespace)

    async def _until_closed(self, shared: Awaitable[_Result]) -> _Result:
        """Wait for work that `close()` cancels, and tell that from a cancellation of the caller."""
        try:
            return await shared
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                raise self._closed_error() from None
            raise

    def _state(self, shared: list[ConnectionState]) -> ConnectionState:
        if self._is_closed:
            return ConnectionState.CLOSED
        for state in (ConnectionState.SILENT, ConnectionState.OPEN):
            if state in shared:
                return state
        return ConnectionState.UNOPENED

    def _closed_error(self) -> ConnectionClosedError:
        address = self.config.temporal.address
        return ConnectionClosedError(
            f"the connection manager for {address!r} is closed: make another one"
        )


class MeteredRuntime(Runtime):
    """Runtime whose metrics can be read, in Prometheus's text format.

    The core serves them on a free port of the loopback interface. Its log goes to the logger
    `temporalio.core` instead of standard output.
    """

    def __init__(self) -> None:
        """Start the core's threads and its metrics server.

        Raises:
            OSError: No port was free.
        """
        forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
        filters = TelemetryFilter(core_level="WARN", other_level="ERROR")
        log = LoggingConfig(filter=filters, forwarding=forwarding)
        for _ in range(_PORT_ATTEMPTS):
            self._port = _free_port()
            metrics = PrometheusConfig(bind_address=f"{_METRICS_HOST}:{self._port}")
            try:
                super().__init__(telemetry=TelemetryConfig(logging=log, metrics=metrics))
            except ValueError:  # another process took the port
                continue
            return
        msg = f"no free port on {_METRICS_HOST} for the metrics of Temporal's core"
        raise OSError(msg)

    def metrics_text(self) -> str:
        """Read the metrics of the core, and those counted through its meter.

        It blocks for a few milliseconds; call it in a thread.

        Raises:
            OSError: They cannot be read.
        """
        connection = http.client.HTTPConnection(_METRICS_HOST, self._port, timeout=_METRICS_SECONDS)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except http.client.HTTPException as error:
            msg = f"cannot read the metrics of Temporal's core: {error!r}"
            raise OSError(msg) from error
        finally:
            connection.close()


def metered_runtime() -> MeteredRuntime:
    """Return the process's metered runtime; the first call makes it.

    Pass it to a `TemporalConnectionManager` whose workers should show the core's metrics at
    `/metrics`. Where `create_worker()` opens the connection, it does that itself.

    Raises:
        OSError: No port was free.
    """
    return _runtime_of_process(os.getpid())


@cache
def _runtime_of_process(_pid: int) -> MeteredRuntime:
    """Make one for each process, because runtimes do not work after a fork."""
    return MeteredRuntime()


def runtime_of(client: Client) -> MeteredRuntime | None:
    """Return the client's runtime if it is a metered one."""
    runtime = unguarded_service(client).config.runtime or Runtime.default()
    return runtime if isinstance(runtime, MeteredRuntime) else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_METRICS_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
