"""Opening a connection: try again while that can help, and say why where it cannot."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Plugin
from temporalio.runtime import Runtime
from temporalio.service import ConnectConfig, RPCError, RPCStatusCode, ServiceClient, TLSConfig
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from orkestra.config import TemporalSettings
from orkestra.errors import ConnectionFailedError, ConnectionFailureReason, OrkestraError
from orkestra.temporal.connection.api_key import BadApiKeyError
from orkestra.temporal.connection.connection import Connection
from orkestra.temporal.connection.failures import (
    MAY_REFUSE_CERTIFICATE,
    WANTS_CERTIFICATE,
    WANTS_TLS,
    Failure,
    classify,
)
from orkestra.temporal.connection.load import Load
from orkestra.temporal.connection.options import (
    BadCertificateError,
    connect_config,
    has_changing_credentials,
    reason_of,
    uses_tls,
)
from orkestra.temporal.connection.probe import probe_tls
from orkestra.temporal.connection.rotation import Rotation
from orkestra.temporal.connection.settling import settle
from orkestra.temporal.connection.statistics import ConnectionCounters

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 3.0
_PROBE_TIMEOUT: Final = 2.0


async def open_connection(
    settings: TemporalSettings,
    *,
    namespace: str | None = None,
    runtime: Runtime | None = None,
    plugins: Sequence[Plugin] = (),
    counters: ConnectionCounters | None = None,
) -> Connection:
    """Connect to the Temporal service, patiently.

    What may heal by itself (nothing listens, unknown host, reset, unavailable, no answer) is tried
    again after random, growing waits until `connect_deadline`; the rest fails at once. Each failed
    attempt is one line in the log.

    Args:
        settings: Where the service is, and how long to try.
        namespace: Namespace to look for where `verify_namespace` is set; None means the settings'.
        runtime: Runtime of the SDK's core; None means its default one.
        plugins: Plugins of the SDK whose `connect_service_client` has a say.
        counters: Where attempts, calls and rotations are counted; None counts anew.

    Returns:
        An open connection, to be closed by the caller.

    Raises:
        ConnectionFailedError: It could not be opened.

    Example:
        ```python
        connection = await open_connection(TemporalSettings(address="localhost:7233"))
        client = Client(connection.service_client, namespace="default")
        ```
    """
    if not settings.verify_namespace:
        namespace = None
    elif namespace is None:
        namespace = settings.namespace
    counters = counters or ConnectionCounters()
    opening = _Opening(settings, namespace, plugins, counters)
    config = await opening.configure(runtime)
    connection = await opening.run(config)
    if settings.credentials_refresh and has_changing_credentials(settings):
        rotation = Rotation(
            connection,
            settings,
            runtime,
            config=config,
            reopen=lambda changed: _Opening(settings, None, plugins, counters).run(changed),
            counters=counters,
        )
        connection.renew_by(rotation)
    return connection


async def verify_namespace(connection: Connection, namespace: str, *, timeout: timedelta) -> None:
    """See that a namespace exists.

    Args:
        connection: An open connection.
        namespace: Its name.
        timeout: How long the SDK may try.

    Raises:
        ConnectionFailedError: It does not exist, or the service does not say.
        ConnectionClosedError: The connection was closed.
    """
    started = time.monotonic()
    try:
        await _describe(connection, namespace, timeout=timeout, retry=True)
    except RPCError as error:
        elapsed = timedelta(seconds=time.monotonic() - started)
        address = connection.address
        raise _error(_of_namespace(error, namespace), address, 1, elapsed) from error


class _AttemptFailed(Exception):  # noqa: N818 - it never leaves this module
    """One attempt failed; the SDK's error is the cause."""

    def __init__(self, failure: Failure, *, was_cut: bool) -> None:
        super().__init__(failure.explanation)
        self.failure = failure
        self.was_cut = was_cut


class _Opening:
    """The attempts to open one connection."""

    def __init__(
        self,
        settings: TemporalSettings,
        namespace: str | None,
        plugins: Sequence[Plugin],
        counters: ConnectionCounters,
    ) -> None:
        self._settings = settings
        self._namespace = namespace
        self._plugins = plugins
        self._counters = counters
        self._attempts = 0
        self._previous: _AttemptFailed | None = None
        self._started = time.monotonic()

    async def configure(self, runtime: Runtime | None) -> ConnectConfig:
        try:
            return await connect_config(self._settings, runtime)
        except (BadCertificateError, BadApiKeyError) as error:
            raise self._error(Failure(reason_of(error), str(error))) from error.__cause__

    async def run(self, config: ConnectConfig) -> Connection:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_can_heal),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            stop=stop_before_delay(self._settings.connect_deadline),
            before_sleep=self._log_wait,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, config)
        except _AttemptFailed as failed:
            self._log(failed.failure, "giving up")
            # What the deadline has cut short says less than the attempt before it.
            told = self._previous if failed.was_cut and self._previous else failed
            raise self._error(told.failure) from told.__cause__

    async def _attempt(self, template: ConnectConfig) -> Connection:
        self._attempts += 1
        self._counters.attempts += 1
        config = replace(template)  # plugins may change theirs
        allowed, remaining = self._settings.connect_timeout.total_seconds(), self._remaining()
        try:
            async with asyncio.timeout(min(allowed, remaining)):
                return await self._connect(config)
        except OrkestraError:
            raise
        except Exception as error:
            self._counters.failed_attempts += 1
            was_cut = isinstance(error, TimeoutError) and remaining < allowed
            raise _AttemptFailed(await self._why(error, config), was_cut=was_cut) from error

    async def _connect(self, config: ConnectConfig) -> Connection:
        sdk_client = await _through(self._plugins)(config)
        load = Load(
            limit=self._settings.max_waiting_calls,
            patience=self._settings.call_retry_deadline.total_seconds() / 2,
            counters=self._counters,
        )
        connection = Connection(sdk_client, address=self._settings.address, load=load)
        try:
            await settle(sdk_client)
            if self._namespace is not None:
                timeout = self._settings.connect_timeout
                await _describe(connection, self._namespace, timeout=timeout, retry=False)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _why(self, error: Exception, config: ConnectConfig) -> Failure:
        if isinstance(error, RPCError) and self._namespace is not None:
            return _of_namespace(error, self._namespace)
        failure = classify(error)
        if failure.is_hang_up and config.http_connect_proxy_config is None:
            timeout = min(_PROBE_TIMEOUT, self._remaining())
            answer = await probe_tls(self._settings.address, timeout=timeout)
            if answer.speaks_tls and not uses_tls(config):
                return WANTS_TLS
            if answer.asks_for_certificate:
                tls = config.tls
                has_one = isinstance(tls, TLSConfig) and tls.client_cert is not None
                return MAY_REFUSE_CERTIFICATE if has_one else WANTS_CERTIFICATE
        return failure

    def _remaining(self) -> float:
        until = self._started + self._settings.connect_deadline.total_seconds()
        return max(0.0, until - time.monotonic())

    def _log_wait(self, state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, _AttemptFailed):
            self._previous = error
            self._log(error.failure, f"trying again in {state.upcoming_sleep:.2f} s")

    def _log(self, failure: Failure, what_now: str) -> None:
        _logger.warning(
            "Attempt %d to connect to Temporal at %s failed, %s: %s; %s",
            self._attempts,
            self._settings.address,
            failure.reason,
            failure.explanation,
            what_now,
        )

    def _error(self, failure: Failure) -> ConnectionFailedError:
        elapsed = timedelta(seconds=time.monotonic() - self._started)
        return _error(failure, self._settings.address, self._attempts, elapsed)


def _can_heal(error: BaseException) -> bool:
    return isinstance(error, _AttemptFailed) and error.failure.reason.is_transient


def _through(plugins: Sequence[Plugin]) -> Callable[[ConnectConfig], Awaitable[ServiceClient]]:
    """The SDK's way to connect, with the plugins around it as `Client.connect()` has them."""

    def around(
        plugin: Plugin, inner: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> Callable[[ConnectConfig], Awaitable[ServiceClient]]:
        return lambda config: plugin.connect_service_client(config, inner)

    connect: Callable[[ConnectConfig], Awaitable[ServiceClient]] = ServiceClient.connect
    for plugin in reversed(plugins):
        connect = around(plugin, connect)
    return connect


async def _describe(
    connection: Connection, namespace: str, *, timeout: timedelta, retry: bool
) -> None:
    request = DescribeNamespaceRequest(namespace=namespace)
    service = connection.service_client.workflow_service
    await service.describe_namespace(request, retry=retry, timeout=timeout)


def _of_namespace(error: RPCError, namespace: str) -> Failure:
    if error.status is not RPCStatusCode.NOT_FOUND:
        return classify(error)
    return Failure(
        ConnectionFailureReason.NAMESPACE_NOT_FOUND,
        f"namespace {namespace!r} does not exist there: create it, or name another",
    )


def _error(
    failure: Failure, address: str, attempts: int, elapsed: timedelta
) -> ConnectionFailedError:
    spent = f" ({attempts} attempts, {elapsed.total_seconds():.1f} s)" if attempts > 1 else ""
    return ConnectionFailedError(
        f"cannot connect to Temporal at {address!r}: {failure.explanation}{spent}",
        reason=failure.reason,
        address=address,
        attempts=attempts,
        elapsed=elapsed,
    )
