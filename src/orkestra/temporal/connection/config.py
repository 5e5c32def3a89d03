"""From `TemporalSettings` to what the SDK's `ServiceClient.connect()` takes.

The API key of the moment: from the settings, a file or a function.
"""

import asyncio
import inspect
import re
import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from temporalio.runtime import Runtime
from temporalio.service import (
    ConnectConfig,
    DnsLoadBalancingConfig,
    HttpConnectProxyConfig,
    KeepAliveConfig,
    RetryConfig,
    TLSConfig,
)

from orkestra.config import (
    ApiKeyProvider,
    CertificateSource,
    ProxySettings,
    TemporalSettings,
    TlsSettings,
)
from orkestra.errors import ConnectionFailureReason


class BadApiKeyError(Exception):
    """The API key cannot be had or used; the message says why and does not show it."""


async def read_api_key(settings: TemporalSettings) -> str | None:
    """Read it anew.

    Args:
        settings: Where it is; a function that is not async is called on a thread.

    Returns:
        The key, or None where none is configured.

    Raises:
        BadApiKeyError: There is none in the file, the function raised, or no header can hold it.
    """
    if settings.api_key_file is not None:
        where = f"temporal.api_key_file {str(settings.api_key_file)!r}"
        return _checked(_from_file(settings.api_key_file, where), where)
    if settings.api_key is None:
        return None
    if isinstance(settings.api_key, SecretStr):
        return settings.api_key.get_secret_value()
    where = "what the function temporal.api_key returned"
    return _checked(await _from_function(settings.api_key), where)


def _from_file(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BadApiKeyError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadApiKeyError(f"{where} is no API key: it is not ASCII text") from None


async def _from_function(provider: ApiKeyProvider) -> object:
    try:
        if inspect.iscoroutinefunction(provider):
            return await provider()
        given = await asyncio.to_thread(provider)
        return await given if inspect.isawaitable(given) else given
    except Exception as error:
        msg = f"the function temporal.api_key raised {type(error).__name__}, which is the cause"
        raise BadApiKeyError(msg) from error


def _checked(key: object, where: str) -> str:
    if isinstance(key, str) and key and key.isascii() and key.isprintable():
        return key
    msg = f"{where} is no API key: it must be a line of printable ASCII"
    raise BadApiKeyError(msg)


_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
_KEY: Final = re.compile(r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----.+-----END ", re.DOTALL)


_MILLISECOND: Final = timedelta(milliseconds=1)


class BadCertificateError(Exception):
    """A certificate or key cannot be used; the message says which and why."""


def reason_of(error: BadCertificateError | BadApiKeyError) -> ConnectionFailureReason:
    """What a connection failed for that could not be tried without its credentials."""
    if isinstance(error, BadApiKeyError):
        return ConnectionFailureReason.BAD_API_KEY
    return ConnectionFailureReason.BAD_CERTIFICATE


@dataclass(repr=False)
class QuietConnectConfig(ConnectConfig):
    """The SDK's own, which prints API keys and private keys in its repr."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(target_host={self.target_host!r}, identity={self.identity!r})"
        )


async def connect_config(settings: TemporalSettings, runtime: Runtime | None) -> ConnectConfig:
    """Read the API key and the certificate files, and translate the settings.

    Raises:
        BadCertificateError: A certificate file cannot be read or holds something else.
        BadApiKeyError: The API key cannot be had.
    """
    # Without a number of retries: the SDK's own, 10, would end them after some 8 s already.
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
    """Whether any of them comes from a file or a function."""
    tls = settings.tls or TlsSettings()
    files = (tls.server_ca_cert, tls.client_cert, tls.client_key)
    return (
        settings.api_key_file is not None
        or callable(settings.api_key)
        or any(source is not None and source.path is not None for source in files)
    )


def uses_tls(config: ConnectConfig) -> bool:
    """Whether the SDK will speak TLS."""
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
    """Check them here, because the SDK takes an authority that it cannot read for none at all."""
    if source is None:
        return None
    content = _read(setting, source)
    found = _CERTIFICATE.findall(content.decode("ascii", errors="replace"))
    if not found:
        raise BadCertificateError(f"{_name(setting, source)} holds no PEM certificate")
    try:
        for certificate in found:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise BadCertificateError(
            f"{_name(setting, source)} holds a certificate that is damaged"
        ) from error
    return content


def _key(setting: str, source: CertificateSource | None) -> bytes | None:
    if source is None:
        return None
    content = _read(setting, source)
    match = _KEY.search(content.decode("ascii", errors="replace"))
    if match is None or match[1] == "ENCRYPTED ":
        raise BadCertificateError(
            f"{_name(setting, source)} holds no PEM private key without a password"
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
