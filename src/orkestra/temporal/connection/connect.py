"""Opening a connection: retry while that can help, and explain the failure where it cannot.

For a failed connection the SDK raises a bare RuntimeError, ValueError or AssertionError around a
text of its core, so `classify()` has to read these texts; nothing else does, and a test pins them.

Servers in Go, Temporal's among them, answer plain text on a TLS port by closing the connection, and
some close it without a word on clients that have no certificate. Both look like a server that is
not ready yet, which would be retried in vain. `probe_tls()` tells them apart.
"""

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

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
from orkestra.errors import ConnectionFailedError, OrkestraError
from orkestra.errors import ConnectionFailureReason as Reason
from orkestra.temporal._sdk import is_core_client_released
from orkestra.temporal.connection.config import (
    BadCredentialsError,
    CredentialRotation,
    connect_config,
    has_changing_credentials,
    uses_tls,
)
from orkestra.temporal.connection.connection import Backpressure, Connection, ConnectionCounters

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 3.0
_TLS_PROBE_SECONDS: Final = 5.0
_CORE_RELEASE_SECONDS: Final = 1.0
_CORE_RELEASE_CHECK_SECONDS: Final = 0.001


async def open_connection(
    settings: TemporalSettings,
    *,
    namespace: str | None = None,
    runtime: Runtime | None = None,
    plugins: Sequence[Plugin] = (),
    counters: ConnectionCounters | None = None,
) -> Connection:
    """Connect to the Temporal service, and retry until `temporal.connect_deadline`.

    Failures that may end by themselves (nothing listens, unknown host, reset, unavailable, no
    answer) are retried after random, growing waits; others fail at once. Each failed attempt is one
    log line.

    Args:
        settings: Address of the service, credentials and time limits.
        namespace: Namespace to look for if `verify_namespace` is set; None means the settings'.
        runtime: Runtime of the SDK's core; None means its default one.
        plugins: Plugins of the SDK whose `connect_service_client` is called.
        counters: Where attempts, calls and rotations are counted; None means new ones.

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
    attempts = _ConnectAttempts(settings, namespace, plugins, counters)
    config = await attempts.configure(runtime)
    connection = await attempts.run(config)
    if settings.credentials_refresh and has_changing_credentials(settings):
        rotation = CredentialRotation(
            connection,
            settings,
            runtime,
            config=config,
            reopen=lambda changed: _ConnectAttempts(settings, None, plugins, counters).run(changed),
            counters=counters,
        )
        connection.rotate_with(rotation)
    return connection


async def verify_namespace(connection: Connection, namespace: str, *, timeout: timedelta) -> None:
    """Check that a namespace exists.

    Args:
        connection: An open connection.
        namespace: Its name.
        timeout: How long the SDK may retry.

    Raises:
        ConnectionFailedError: It does not exist, or the service does not answer.
        ConnectionClosedError: The connection was closed.
    """
    started = time.monotonic()
    try:
        await _describe(connection, namespace, timeout=timeout, retry=True)
    except RPCError as error:
        elapsed = timedelta(seconds=time.monotonic() - started)
        address = connection.address
        raise _error(_namespace_failure(error, namespace), address, 1, elapsed) from error


class _AttemptFailed(Exception):  # noqa: N818 - it never leaves this module
    """One attempt failed; the SDK's error is the cause."""

    def __init__(self, failure: "Failure", *, by_deadline: bool) -> None:
        super().__init__(failure.explanation)
        self.failure = failure
        self.by_deadline = by_deadline


class _ConnectAttempts:
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
        except BadCredentialsError as error:
            raise self._error(Failure(error.reason, str(error))) from error.__cause__

    async def run(self, config: ConnectConfig) -> Connection:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
            stop=stop_before_delay(self._settings.connect_deadline),
            before_sleep=self._log_wait,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, config)
        except _AttemptFailed as failed:
            self._log(failed.failure, "giving up")
            # An attempt that the deadline cut short says less than the attempt before it.
            reported = self._previous if failed.by_deadline and self._previous else failed
            raise self._error(reported.failure) from reported.__cause__

    async def _attempt(self, template: ConnectConfig) -> Connection:
        self._attempts += 1
        self._counters.attempts += 1
        config = replace(template)  # plugins may change theirs
        allowed, remaining = self._settings.connect_timeout.total_seconds(), self._remaining()
        try:
            # The SDK's time-out bounds one TCP attempt, not the connecting as a whole (T39).
            async with asyncio.timeout(min(allowed, remaining)):
                return await self._connect(config)
        # Orkestra's own errors are final, not an attempt that may succeed later.
        except OrkestraError:
            raise
        except Exception as error:
            self._counters.failed_attempts += 1
            by_deadline = isinstance(error, TimeoutError) and remaining < allowed
            failure = await self._failure(error, config)
            raise _AttemptFailed(failure, by_deadline=by_deadline) from error

    async def _connect(self, config: ConnectConfig) -> Connection:
        sdk_client = await _connect_method(self._plugins)(config)
        backpressure = Backpressure(
            limit=self._settings.max_waiting_calls,
            silence=self._settings.call_retry_deadline / 2,
            counters=self._counters,
        )
        address = self._settings.address
        connection = Connection(sdk_client, address=address, backpressure=backpressure)
        try:
            await _wait_for_core_release(sdk_client)
            if self._namespace is not None:
                timeout = self._settings.connect_timeout
                await _describe(connection, self._namespace, timeout=timeout, retry=False)
        # Cancellation, too, must not leave the socket open (T32).
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _failure(self, error: Exception, config: ConnectConfig) -> "Failure":
        if isinstance(error, RPCError) and self._namespace is not None:
            return _namespace_failure(error, self._namespace)
        failure = classify(error)
        if failure.is_hang_up and config.http_connect_proxy_config is None:
            timeout = min(_TLS_PROBE_SECONDS, self._remaining())
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

    def _log(self, failure: "Failure", next_step: str) -> None:
        _logger.warning(
            "Attempt %d to connect to Temporal at %s failed, %s: %s; %s",
            self._attempts,
            self._settings.address,
            failure.reason,
            failure.explanation,
            next_step,
        )

    def _error(self, failure: "Failure") -> ConnectionFailedError:
        elapsed = timedelta(seconds=time.monotonic() - self._started)
        return _error(failure, self._settings.address, self._attempts, elapsed)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, _AttemptFailed) and error.failure.reason.is_transient


def _connect_method(
    plugins: Sequence[Plugin],
) -> Callable[[ConnectConfig], Awaitable[ServiceClient]]:
    """Wrap the SDK's `connect` in the plugins, in the order of `Client.connect()`."""

    # A function, because a lambda made in the loop would see only the last plugin.
    def around(
        plugin: Plugin, inner: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> Callable[[ConnectConfig], Awaitable[ServiceClient]]:
        return lambda config: plugin.connect_service_client(config, inner)

    connect: Callable[[ConnectConfig], Awaitable[ServiceClient]] = ServiceClient.connect
    for plugin in reversed(plugins):
        connect = around(plugin, connect)
    return connect


async def _wait_for_core_release(sdk_client: ServiceClient) -> None:
    """Wait until the core's threads have released their reference to a client just connected.

    They do so with the next call into the core. Where no call follows, the socket of a dropped
    connection stays open: one in ten that had not been used.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_CORE_RELEASE_SECONDS):
            while not is_core_client_released(sdk_client):  # noqa: ASYNC110 - the core has no event for it
                await asyncio.sleep(_CORE_RELEASE_CHECK_SECONDS)


async def _describe(
    connection: Connection, namespace: str, *, timeout: timedelta, retry: bool
) -> None:
    request = DescribeNamespaceRequest(namespace=namespace)
    service = connection.service_client.workflow_service
    await service.describe_namespace(request, retry=retry, timeout=timeout)


def _namespace_failure(error: RPCError, namespace: str) -> "Failure":
    if error.status is not RPCStatusCode.NOT_FOUND:
        return classify(error)
    return Failure(
        Reason.NAMESPACE_NOT_FOUND,
        f"namespace {namespace!r} does not exist: create it, or name another",
    )


def _error(
    failure: "Failure", address: str, attempts: int, elapsed: timedelta
) -> ConnectionFailedError:
    spent = f" ({attempts} attempts, {elapsed.total_seconds():.1f} s)" if attempts > 1 else ""
    return ConnectionFailedError(
        f"cannot connect to Temporal at {address!r}: {failure.explanation}{spent}",
        reason=failure.reason,
        address=address,
        attempts=attempts,
        elapsed=elapsed,
    )


_CERTIFICATE_REQUEST: Final = 13  # of the messages of a handshake, in TLS 1.2 and 1.3


@dataclass(slots=True)
class TlsAnswer:
    """Answer of a server to the start of a TLS handshake."""

    speaks_tls: bool = False
    asks_for_certificate: bool = False


async def probe_tls(address: str, *, timeout: float) -> TlsAnswer:
    """Start a TLS handshake with a server, and send nothing else.

    Args:
        address: `host:port`; an IPv6 host is in brackets.
        timeout: Seconds to wait for the answer.
    """
    host, _, port = address.rpartition(":")
    answer = TlsAnswer()
    try:
        async with asyncio.timeout(timeout):
            context = _observing_context(answer)
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (OSError, ValueError):  # TimeoutError and SSLError are kinds of OSError
        return answer
    answer.speaks_tls = True
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
    return answer


def _observing_context(answer: TlsAnswer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # its identity does not matter: no secret is sent
    context.set_alpn_protocols(["h2"])

    def observe(*message: Any) -> None:
        _, direction, _, _, kind, _ = message
        if direction == "read" and kind == _CERTIFICATE_REQUEST:
            answer.speaks_tls = answer.asks_for_certificate = True

    # Nothing public shows the request. Without it such servers are only tried again.
    with suppress(AttributeError):
        context._msg_callback = observe  # type: ignore[attr-defined] # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return context


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason of one failed attempt.

    Attributes:
        reason: Kind of failure.
        explanation: Cause and remedy, for a message that ends with them.
        is_hang_up: The server closed the connection, as one does that expects TLS.
    """

    reason: Reason
    explanation: str
    is_hang_up: bool = False


WANTS_TLS: Final = Failure(Reason.TLS, "the server expects TLS: configure temporal.tls")
"""The server closed a plain-text connection, and then answered a TLS handshake."""

WANTS_CERTIFICATE: Final = Failure(
    Reason.TLS,
    "the server expects a client certificate: configure tls.client_cert and tls.client_key",
)
"""The server closed the connection and requests a client certificate; none is configured."""

MAY_REFUSE_CERTIFICATE: Final = Failure(
    Reason.RESET, "the server closes the connection; it may be starting, or refuse tls.client_cert"
)
"""The server closed the connection after it requested a client certificate and got one."""

_NO_ANSWER: Final = Failure(Reason.TIMED_OUT, "no answer: check the address and the firewalls")
_HUNG_UP: Final = Failure(
    Reason.RESET,
    "the server closes the connection; it may be starting",
    is_hang_up=True,
)
_NO_TEMPORAL: Final = "the server at this address is not a Temporal server"
_NOT_GRPC: Final = Failure(Reason.OTHER, _NO_TEMPORAL, is_hang_up=True)
_BAD_KEY: Final = Failure(
    Reason.BAD_CERTIFICATE, "tls.client_key is not a PEM private key without a password"
)

# Parts of the SDK's texts; the first that is found counts.
_BEFORE_SENDING: Final = (
    ("invalid target URL", Failure(Reason.BAD_ADDRESS, "the address is malformed")),
    ("Invalid URI", Failure(Reason.BAD_ADDRESS, "the address or tls.server_name is malformed")),
    (
        "Invalid headers",
        Failure(Reason.OTHER, "grpc_meta has a key or value that gRPC does not allow"),
    ),
    (
        "across forks",
        Failure(
            Reason.OTHER,
            "Temporal's runtime was started before this process was forked, and does not work in"
            " the fork: pass a Runtime made in this process, or start processes with spawn",
        ),
    ),
    (
        "InconsistentKeys(",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_key does not belong to tls.client_cert"),
    ),
    ("PrivateKeyParseError", _BAD_KEY),
    ("failed to parse private key", _BAD_KEY),
    (
        "NoCertificatesPresented",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_cert has no PEM certificate"),
    ),
    (
        "Error(Transport, InvalidCertificate(",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_cert has a damaged certificate"),
    ),
)

_PROXY: Final = (
    (
        "CONNECT call failed with status: 407",
        Failure(Reason.UNAUTHENTICATED, "the proxy rejects the user or password"),
    ),
    (
        "CONNECT call failed with status: 403",
        Failure(Reason.PERMISSION_DENIED, "the proxy does not allow connections to this address"),
    ),
    (
        "CONNECT call failed with status: ",
        Failure(Reason.UNAVAILABLE, "the proxy cannot reach this address"),
    ),
    (
        "client error (Connect)\n\nCaused by:\n    Connection refused",
        Failure(Reason.REFUSED, "nothing listens at the address of the proxy: is it running?"),
    ),
    (
        "client error (Connect)\n\nCaused by:\n    failed to lookup",
        Failure(Reason.UNKNOWN_HOST, "the host of the proxy is unknown"),
    ),
    ("client error (Connect)", Failure(Reason.UNAVAILABLE, "the proxy cannot be reached")),
)

_ON_THE_WAY: Final = (
    (
        "InvalidCertificate(UnknownIssuer",
        Failure(
            Reason.TLS,
            "no trusted authority has signed the server's certificate: name its authority in"
            " tls.server_ca_cert",
        ),
    ),
    ("InvalidCertificate(Expired", Failure(Reason.TLS, "the server's certificate has expired")),
    (
        "InvalidCertificate(NotValidForName",
        Failure(
            Reason.TLS,
            "the server's certificate is for another name: give that name as tls.server_name",
        ),
    ),
    ("InvalidCertificate(", Failure(Reason.TLS, "the server's certificate is not valid")),
    (
        "InvalidContentType",
        Failure(
            Reason.TLS, "the server does not speak TLS: set tls.disabled, or leave TLS settings out"
        ),
    ),
    (
        "AlertReceived(",
        Failure(Reason.TLS, "the server refuses this client's TLS: check tls.client_cert"),
    ),
    ("H2NotNegotiated", Failure(Reason.TLS, "the server speaks TLS, but not HTTP/2")),
    ("PeerIncompatible(", Failure(Reason.TLS, "the server supports no TLS version of this client")),
    ("InvalidMessage(", Failure(Reason.TLS, "the server sends invalid TLS messages")),
    ('"dns error"', Failure(Reason.UNKNOWN_HOST, "the host is unknown: check the address and DNS")),
    (
        "ConnectionRefused",
        Failure(Reason.REFUSED, "nothing listens at this address: is the server running?"),
    ),
    ("TimedOut", _NO_ANSWER),
    ("HostUnreachable", Failure(Reason.UNAVAILABLE, "there is no route to the host")),
    ("NetworkUnreachable", Failure(Reason.UNAVAILABLE, "there is no route to the network")),
    ("ConnectionReset", _HUNG_UP),
    ("ConnectionAborted", _HUNG_UP),
    ("BrokenPipe", _HUNG_UP),
    ("UnexpectedEof", _HUNG_UP),
    ("connection closed", _HUNG_UP),
    ("Http2", _NOT_GRPC),
)

_STATUSES: Final = {
    "UNAUTHENTICATED": Failure(
        Reason.UNAUTHENTICATED,
        "the server does not accept the credentials: check api_key and tls.client_cert",
    ),
    "PERMISSION_DENIED": Failure(
        Reason.PERMISSION_DENIED, "the server does not permit this to these credentials"
    ),
    "UNAVAILABLE": Failure(Reason.UNAVAILABLE, "the server says that it is unavailable"),
    "RESOURCE_EXHAUSTED": Failure(Reason.UNAVAILABLE, "the server says that it is overloaded"),
    "DEADLINE_EXCEEDED": _NO_ANSWER,
    "CANCELLED": Failure(Reason.RESET, "the server ended the call"),
    "UNIMPLEMENTED": Failure(Reason.OTHER, _NO_TEMPORAL),
}

_STATUS_TEXT: Final = re.compile(r"call error after connection: Status \{ code: (\w+)")


def classify(error: Exception) -> Failure:
    """Explain why an attempt to connect failed.

    Args:
        error: Error of the SDK, or of a time-out around it.
    """
    if isinstance(error, RPCError):
        return _from_status(error.status.name)
    if isinstance(error, TimeoutError):
        return _NO_ANSWER
    text, _, _ = str(error).partition("\n\nStack backtrace:")
    # A status ends with its source, which is None where the server itself has sent it.
    status, _, cause = text.rpartition("source: ")
    if (match := _STATUS_TEXT.search(status)) and cause.startswith("None"):
        return _from_status(re.sub(r"(?<!^)(?=[A-Z])", "_", match[1]).upper())
    for part, failure in (*_BEFORE_SENDING, *_PROXY, *_ON_THE_WAY):
        if part in text:
            return failure
    return Failure(Reason.OTHER, f"unexpected {type(error).__name__}, which is the cause")


def _from_status(name: str) -> Failure:
    known = _STATUSES.get(name)
    return known or Failure(Reason.OTHER, f"the server answers with the status {name}")
