"""Connection options from the settings, and credentials that change while a connection is open.

API keys and certificates may come from files and functions, which are read again every
`temporal.credentials_refresh` while the connection is used. A new API key replaces the old one in
place. TLS is negotiated when a socket is opened, so new certificates need a second connection: it
takes over all new calls, and the old one closes with the last call on it. Old credentials stay in
use until new ones work.
"""

import asyncio
import contextvars
import inspect
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from pydantic import SecretStr
from temporalio.runtime import Runtime
from temporalio.service import (
    ConnectConfig,
    DnsLoadBalancingConfig,
    HttpConnectProxyConfig,
    KeepAliveConfig,
    RetryConfig,
    RPCError,
    RPCStatusCode,
    TLSConfig,
)

from orkestra.config import (
    ApiKeyProvider,
    CertificateSource,
    ProxySettings,
    TemporalSettings,
    TlsSettings,
)
from orkestra.errors import ConnectionClosedError, ConnectionFailureReason, OrkestraError
from orkestra.temporal.connection.connection import NO_ANSWER, Connection, ConnectionCounters

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_Result = TypeVar("_Result")

_MILLISECOND: Final = timedelta(milliseconds=1)
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
_KEY: Final = re.compile(r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----.+-----END ", re.DOTALL)
_REFUSED: Final = frozenset({RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED})
_CHECK_BEFORE_CALL_SECONDS: Final = 1.0


class BadCredentialsError(Exception):
    """A credential cannot be read or used; the message says which and why, and shows no secret."""

    reason = ConnectionFailureReason.BAD_CERTIFICATE


class BadApiKeyError(BadCredentialsError):
    """The API key cannot be read or used."""

    reason = ConnectionFailureReason.BAD_API_KEY


class BadCertificateError(BadCredentialsError):
    """A certificate or private key cannot be read or used."""


@dataclass(repr=False)
class QuietConnectConfig(ConnectConfig):
    """The SDK's options, without the API keys and private keys in their repr."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(target_host={self.target_host!r}, identity={self.identity!r})"
        )


async def connect_config(settings: TemporalSettings, runtime: Runtime | None) -> ConnectConfig:
    """Read the API key and the certificate files, and translate the settings.

    Raises:
        BadCertificateError: A certificate or key file cannot be read or has other contents.
        BadApiKeyError: The API key cannot be read.
    """
    # No limit to the number of retries: the SDK's own, 10, would end them after some 8 s.
    retries = RetryConfig(
        max_elapsed_time_millis=settings.call_retry_deadline // _MILLISECOND, max_retries=0
    )
    return QuietConnectConfig(
        target_host=settings.address,
        tls=None if settings.tls is None else _tls(settings.tls),
        api_key=await read_api_key(settings),
        retry_config=retries,
        keep_alive_config=_keep_alive(settings),
        rpc_metadata=dict(settings.grpc_meta),
        identity=settings.identity or "",
        runtime=runtime,
        connect_timeout=settings.connect_timeout or None,
        http_connect_proxy_config=None if settings.proxy is None else _proxy(settings.proxy),
        dns_load_balancing_config=_dns(settings),
    )


def has_changing_credentials(settings: TemporalSettings) -> bool:
    """Check whether any credential comes from a file or a function."""
    if settings.api_key_file is not None or callable(settings.api_key):
        return True
    tls = settings.tls
    files = () if tls is None else (tls.server_ca_cert, tls.client_cert, tls.client_key)
    return any(source is not None and source.path is not None for source in files)


def uses_tls(config: ConnectConfig) -> bool:
    """Check whether the SDK will use TLS."""
    return bool(config.tls) or (config.tls is None and config.api_key is not None)


def _keep_alive(settings: TemporalSettings) -> KeepAliveConfig | None:
    if not settings.keep_alive_interval:
        return None
    return KeepAliveConfig(
        interval_millis=settings.keep_alive_interval // _MILLISECOND,
        timeout_millis=settings.keep_alive_timeout // _MILLISECOND,
    )


def _proxy(settings: ProxySettings) -> HttpConnectProxyConfig:
    login = None
    if settings.user is not None and settings.password is not None:
        login = (settings.user, settings.password.get_secret_value())
    return HttpConnectProxyConfig(target_host=settings.address, basic_auth=login)


def _dns(settings: TemporalSettings) -> DnsLoadBalancingConfig | None:
    if settings.dns_refresh is None:
        return None
    return DnsLoadBalancingConfig(settings.dns_refresh // _MILLISECOND)


def _tls(settings: TlsSettings) -> bool | TLSConfig | None:
    if settings.disabled:
        return False
    if settings == TlsSettings():
        return None
    return TLSConfig(
        server_root_ca_cert=_certificates("server_ca_cert", settings.server_ca_cert),
        domain=settings.server_name,
        client_cert=_certificates("client_cert", settings.client_cert),
        client_private_key=_key("client_key", settings.client_key),
    )


def _certificates(setting: str, source: CertificateSource | None) -> bytes | None:
    """Check them here: the SDK ignores an authority that it cannot read."""
    if source is None:
        return None
    content = _read(setting, source)
    found = _CERTIFICATE.findall(content.decode("ascii", errors="replace"))
    if not found:
        raise BadCertificateError(f"{_name(setting, source)} has no PEM certificate")
    try:
        for certificate in found:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise BadCertificateError(f"{_name(setting, source)} has a damaged certificate") from error
    return content


def _key(setting: str, source: CertificateSource | None) -> bytes | None:
    if source is None:
        return None
    content = _read(setting, source)
    match = _KEY.search(content.decode("ascii", errors="replace"))
    if match is None or match[1] == "ENCRYPTED ":
        raise BadCertificateError(
            f"{_name(setting, source)} has no PEM private key without a password"
        )
    return content


def _read(setting: str, source: CertificateSource) -> bytes:
    if source.path is None:
        return source.data.get_secret_value().encode() if source.data else b""
    try:
        return source.path.read_bytes()
    except OSError as error:
        raise BadCertificateError(
            f"{_name(setting, source)} cannot be read: {error.strerror}"
        ) from error


def _name(setting: str, source: CertificateSource) -> str:
    return f"tls.{setting}" if source.path is None else f"tls.{setting} file {str(source.path)!r}"


async def read_api_key(settings: TemporalSettings) -> str | None:
    """Read the API key from the settings, the file or the function.

    Args:
        settings: The settings; a function that is not async is called on a thread.

    Returns:
        The key; None where none is configured.

    Raises:
        BadApiKeyError: The file cannot be read, the function raised, or the key does not fit into a
            header.
    """
    if settings.api_key_file is not None:
        where = f"temporal.api_key_file {str(settings.api_key_file)!r}"
        return _checked(_from_file(settings.api_key_file, where), where)
    if settings.api_key is None:
        return None
    if isinstance(settings.api_key, SecretStr):
        return settings.api_key.get_secret_value()
    where = "the result of the function temporal.api_key"
    return _checked(await _from_function(settings.api_key), where)


def _from_file(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BadApiKeyError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadApiKeyError(f"{where} is not an API key: it is not ASCII text") from None


async def _from_function(provider: ApiKeyProvider) -> object:
    try:
        if inspect.iscoroutinefunction(provider):
            return await provider()
        given = await asyncio.to_thread(provider)
        return await given if inspect.isawaitable(given) else given
    except Exception as error:
        msg = f"the function temporal.api_key raised {type(error).__name__}"
        raise BadApiKeyError(msg) from error


def _checked(key: object, where: str) -> str:
    if isinstance(key, str) and key and key.isascii() and key.isprintable():
        return key
    msg = f"{where} is not an API key: it must be one line of printable ASCII"
    raise BadApiKeyError(msg)


class CredentialRotation:
    """Replaces changed credentials of one connection, before calls and while workers run.

    No task or thread exists while the connection is unused.

    Attributes:
        generation: Number of replacements so far.

    Args:
        connection: The connection.
        settings: Sources of the credentials, and how often to read them.
        runtime: Runtime of the connection.
        config: Options that the connection was opened with.
        reopen: Opens another connection with changed options.
        counters: Where rotations are counted.
    """

    def __init__(
        self,
        connection: Connection,
        settings: TemporalSettings,
        runtime: Runtime | None,
        *,
        config: ConnectConfig,
        reopen: Callable[[ConnectConfig], Awaitable[Connection]],
        counters: ConnectionCounters,
    ) -> None:
        self.generation = 0
        self._connection = connection
        self._settings = settings
        self._runtime = runtime
        self._config = config
        self._reopen = reopen
        self._counters = counters
        self._interval = settings.credentials_refresh.total_seconds()
        self._next_check = time.monotonic() + self._interval
        self._checking: asyncio.Task[None] | None = None
        self._last_failure = ""

    async def around(self, send: Callable[[], Awaitable[_Result]]) -> _Result:
        """Send a call, checking for changes first if it is time, and again if it is refused.

        The check may delay the call by a second. A call that failed on the old connection is sent
        again on the new one, as the SDK would have gone on retrying it.
        """
        if time.monotonic() >= self._next_check:
            await asyncio.wait([self._start_check()], timeout=_CHECK_BEFORE_CALL_SECONDS)
        generation = self.generation
        try:
            return await send()
        except RPCError as error:
            if error.status in _REFUSED and self.generation == generation:
                await asyncio.wait([self._start_check()])
            may_help = error.status in _REFUSED or error.status in NO_ANSWER
            if self.generation == generation or not may_help:
                raise
        return await send()

    async def watch(self) -> None:
        """Check for changes again and again, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._next_check - time.monotonic()))
            if time.monotonic() >= self._next_check:
                await asyncio.wait([self._start_check()])

    def _start_check(self) -> asyncio.Task[None]:
        """Start a check, or join the one that this event loop runs."""
        check = self._checking
        if check is None or check.done() or check.get_loop() is not asyncio.get_running_loop():
            self._next_check = time.monotonic() + self._interval
            # An empty context: the check belongs to none of the callers, whose tenants differ.
            check = asyncio.create_task(self._check(), context=contextvars.Context())
            self._checking = check
        return check

    async def _check(self) -> None:
        try:
            config = await connect_config(self._settings, self._runtime)
            if config.tls != self._config.tls:
                await self._reconnect(config)
                self._note_rotation("Certificates have changed: connected again to Temporal at %s")
            elif config.api_key != self._config.api_key:
                self._connection.change_api_key(config.api_key)
                self._note_rotation("The API key for Temporal at %s has changed")
        except ConnectionClosedError:
            return
        except (BadCredentialsError, OrkestraError) as error:
            self._note_failure(str(error))
            return
        self._last_failure = ""
        self._config = config

    async def _reconnect(self, config: ConnectConfig) -> None:
        """Open another connection, with what users have changed on this one, and take it over."""
        current = self._connection.service_client.config
        if config.api_key == self._config.api_key:
            config = replace(config, api_key=current.api_key)
        fresh = await self._reopen(replace(config, rpc_metadata=current.rpc_metadata))
        try:
            self._connection.take_over(fresh)
        finally:
            await fresh.close()

    def _note_rotation(self, message: str) -> None:
        self.generation += 1
        self._counters.rotations += 1
        _logger.info(message, self._settings.address)

    def _note_failure(self, message: str) -> None:
        self._counters.failed_rotations += 1
        if message != self._last_failure:
            self._last_failure = message
            _logger.warning("Changed credentials cannot be used, the old ones stay: %s", message)
