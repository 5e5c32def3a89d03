"""Opening a connection: try again while that can help, and say why where it cannot.

Asking a server about TLS, once it has hung up without saying why.

Servers in Go, Temporal's among them, answer plain text on a TLS port by closing the connection;
some close it as silently on clients without a certificate. Both look like a server that is not
ready yet, and trying again would never end well.

Why the SDK could not connect: the one place that reads its error texts.

For a failed connection the SDK raises a bare RuntimeError, ValueError or AssertionError around a
text of its core; there is nothing else to go by. A test pins the wording.
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
from orkestra.errors import ConnectionFailedError, ConnectionFailureReason, OrkestraError
from orkestra.errors import ConnectionFailureReason as Reason
from orkestra.temporal._sdk import is_core_client_released
from orkestra.temporal.connection.config import (
    BadApiKeyError,
    BadCertificateError,
    connect_config,
    has_changing_credentials,
    reason_of,
    uses_tls,
)
from orkestra.temporal.connection.connection import Connection, Rotation
from orkestra.temporal.connection.load import ConnectionCounters, Load

_CERTIFICATE_REQUEST: Final = 13  # of the messages of a handshake, in TLS 1.2 and 1.3


@dataclass(slots=True)
class TlsAnswer:
    """What a server does when somebody wants to speak TLS with it.

    Attributes:
        speaks_tls: It has answered the handshake.
        asks_for_certificate: It has asked for the client's certificate.
    """

    speaks_tls: bool = False
    asks_for_certificate: bool = False


async def probe_tls(address: str, *, timeout: float) -> TlsAnswer:
    """Begin a TLS handshake with a server; nothing else is sent to it.

    Args:
        address: `host:port`; an IPv6 host stands in brackets.
        timeout: How many seconds to wait for the answer.
    """
    host, _, port = address.rpartition(":")
    answer = TlsAnswer()
    try:
        async with asyncio.timeout(timeout):
            context = _listening_context(answer)
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (OSError, ValueError):  # TimeoutError and SSLError are kinds of OSError
        return answer
    answer.speaks_tls = True
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
    return answer


def _listening_context(answer: TlsAnswer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who it is does not matter, nothing is entrusted to it
    context.set_alpn_protocols(["h2"])

    def listen(*message: Any) -> None:
        _, direction, _, _, kind, _ = message
        if direction == "read" and kind == _CERTIFICATE_REQUEST:
            answer.speaks_tls = answer.asks_for_certificate = True

    # There is no public way to hear of it. Where it goes away, such servers are tried again.
    with suppress(AttributeError):
        context._msg_callback = listen  # type: ignore[attr-defined] # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return context


_RELEASE_TIMEOUT: Final = timedelta(milliseconds=250)
_RELEASE_CHECK_SECONDS: Final = 0.001


async def wait_for_core_release(sdk_client: ServiceClient) -> None:
    """Wait until the core's threads have released their reference to a client just connected.

    They do so with the next call into the core. Where no call follows, the socket of a dropped
    connection stays open: one in ten that had not been used.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_RELEASE_TIMEOUT.total_seconds()):
            while not is_core_client_released(sdk_client):  # noqa: ASYNC110 - the core has no event for it
                await asyncio.sleep(_RELEASE_CHECK_SECONDS)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt failed.

    Attributes:
        reason: What kind of failure it was.
        explanation: What happened and how to mend it, to stand behind a colon.
        is_hang_up: The server gave up talking to us, as one does that expects TLS.
    """

    reason: Reason
    explanation: str
    is_hang_up: bool = False


WANTS_TLS: Final = Failure(Reason.TLS, "the server expects TLS: configure temporal.tls")
"""Of a server that hung up on plain text, and then answered a TLS handshake."""

WANTS_CERTIFICATE: Final = Failure(
    Reason.TLS,
    "the server expects a client certificate: configure tls.client_cert and tls.client_key",
)
"""Of a server that hung up, and asks for a client's certificate, of which there is none."""

MAY_REFUSE_CERTIFICATE: Final = Failure(
    Reason.RESET, "the server closes the connection; it may be starting, or refuse tls.client_cert"
)
"""Of a server that hung up after it has asked for a client's certificate and got one."""

_NO_ANSWER: Final = Failure(Reason.TIMED_OUT, "no answer: check the address and the firewalls")
_HUNG_UP: Final = Failure(
    Reason.RESET,
    "the server closes the connection; it may be starting",
    is_hang_up=True,
)
_NO_TEMPORAL: Final = "what answers there is not a Temporal server"
_NOT_GRPC: Final = Failure(Reason.OTHER, _NO_TEMPORAL, is_hang_up=True)
_BAD_KEY: Final = Failure(
    Reason.BAD_CERTIFICATE, "tls.client_key is not a PEM private key without a password"
)

# A mark in the SDK's text and what it means; the first that is found counts.
_BEFORE_SENDING: Final = (
    ("invalid target URL", Failure(Reason.BAD_ADDRESS, "the address is malformed")),
    ("Invalid URI", Failure(Reason.BAD_ADDRESS, "the address or tls.server_name is malformed")),
    ("Invalid headers", Failure(Reason.OTHER, "grpc_meta holds what gRPC does not allow")),
    (
        "across forks",
        Failure(
            Reason.OTHER,
            "Temporal's runtime was started before this process was forked, and does not survive"
            " that: pass a Runtime made in this process, or start processes by spawn",
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
        Failure(Reason.BAD_CERTIFICATE, "tls.client_cert holds no PEM certificate"),
    ),
    (
        "Error(Transport, InvalidCertificate(",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_cert holds a damaged certificate"),
    ),
)

_PROXY: Final = (
    (
        "CONNECT call failed with status: 407",
        Failure(Reason.UNAUTHENTICATED, "the proxy wants another user or password"),
    ),
    (
        "CONNECT call failed with status: 403",
        Failure(Reason.PERMISSION_DENIED, "the proxy does not let anybody through to there"),
    ),
    (
        "CONNECT call failed with status: ",
        Failure(Reason.UNAVAILABLE, "the proxy does not get through to there"),
    ),
    (
        "client error (Connect)\n\nCaused by:\n    Connection refused",
        Failure(Reason.REFUSED, "nothing listens at the address of the proxy"),
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
    ("H2NotNegotiated", Failure(Reason.TLS, "the server speaks TLS, but not HTTP/2 below it")),
    ("PeerIncompatible(", Failure(Reason.TLS, "the server has no version of TLS in common")),
    ("InvalidMessage(", Failure(Reason.TLS, "the server's TLS makes no sense")),
    ('"dns error"', Failure(Reason.UNKNOWN_HOST, "the host is unknown: check the address and DNS")),
    ("ConnectionRefused", Failure(Reason.REFUSED, "nothing listens there: is the server up?")),
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
    """Say why an attempt to connect failed.

    Args:
        error: What the SDK, or a time-out around it, raised.
    """
    if isinstance(error, RPCError):
        return _from_status(error.status.name)
    if isinstance(error, TimeoutError):
        return _NO_ANSWER
    text, _, _ = str(error).partition("\n\nStack backtrace:")
    # A status ends with what caused it, which is nothing where the server itself has sent it.
    status, _, cause = text.rpartition("source: ")
    if (match := _STATUS_TEXT.search(status)) and cause.startswith("None"):
        return _from_status(re.sub(r"(?<!^)(?=[A-Z])", "_", match[1]).upper())
    for mark, failure in (*_BEFORE_SENDING, *_PROXY, *_ON_THE_WAY):
        if mark in text:
            return failure
    return Failure(Reason.OTHER, f"unexpected {type(error).__name__}, which is the cause")


def _from_status(name: str) -> Failure:
    known = _STATUSES.get(name)
    return known or Failure(Reason.OTHER, f"the server answers with the status {name}")


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
            await wait_for_core_release(sdk_client)
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
