"""How the Temporal service is reached."""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from orkestra.config.section import Duration, Section


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    is_host = bool(host) and not re.search(r"[\s/]", host)
    if not (is_port and is_host and (":" not in host or host.startswith("["))):
        msg = "must be host:port, for instance 'localhost:7233'"
        raise ValueError(msg)
    return value


HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
"""`host:port`; an IPv6 host stands in brackets."""


class CertificateSource(Section):
    """A PEM certificate or key: a file, or the text itself.

    Attributes:
        path: File to read when a connection is opened.
        data: The PEM text.
    """

    path: Path | None = None
    data: SecretStr | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.path is None) == (self.data is None):
            msg = "give either 'path' or 'data'"
            raise ValueError(msg)
        return self


class TlsSettings(Section):
    """TLS as `temporal.toml` has it.

    Attributes:
        disabled: True forces plain text, False forces TLS, None leaves it to the rest.
        server_name: Name to expect in the server's certificate, instead of the address's host.
        server_ca_cert: Certificate authority to trust instead of the system's.
        client_cert: Client certificate for mTLS, together with `client_key`.
        client_key: Private key of the client certificate.
    """

    disabled: bool | None = None
    server_name: str | None = None
    server_ca_cert: CertificateSource | None = None
    client_cert: CertificateSource | None = None
    client_key: CertificateSource | None = None

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.client_cert is None) != (self.client_key is None):
            msg = "client_cert and client_key go together"
            raise ValueError(msg)
        return self


class ProxySettings(Section):
    """A proxy on the way to the Temporal service, asked by HTTP CONNECT.

    Attributes:
        address: `host:port` of the proxy.
        user: User name, together with `password`.
        password: Its password.
    """

    address: HostAndPort
    user: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _user_with_password(self) -> Self:
        if (self.user is None) != (self.password is None):
            msg = "user and password go together"
            raise ValueError(msg)
        return self


ApiKeyProvider = Callable[[], str | Awaitable[str]]
"""Gives the API key of the moment; it may be async."""


class TemporalSettings(Section):
    """Where the Temporal service is and how connections behave.

    Attributes:
        address: `host:port` of the frontend; an IPv6 host stands in brackets.
        namespace: Namespace of clients that name none.
        api_key: Sent as bearer token; switches TLS on. In code also a function, sync or async,
            that gives the one of the moment and is asked every `credentials_refresh`.
        api_key_file: File with the API key, read again every `credentials_refresh`.
        tls: TLS settings; None means plain text, or TLS where there is an API key.
        grpc_meta: Metadata sent with every call.
        identity: Name of this process on the server; None means `pid@host`.
        connect_deadline: How long opening a connection is tried altogether.
        connect_timeout: How long one attempt may take.
        verify_namespace: Check that the namespace exists when a connection is opened.
        call_retry_deadline: How long the SDK retries one call that fails in passing.
        credentials_refresh: How often the API key and certificate files are looked at for changes;
            zero means never.
        keep_alive_interval: How often an open connection is tried by a ping; zero means never.
        keep_alive_timeout: How long the answer may take before the connection is given up.
        proxy: Proxy on the way there; None means a direct connection.
        dns_refresh: Look the host up at this interval, at least 1 s, and spread calls over all of
            its addresses; None looks it up for each new connection and uses one address.
        pool_size: Shared connections of a manager, which its clients get in turn.
        ui_url: Where Temporal's web interface is; traces link to workflows' pages there.
        max_waiting_calls: Calls of one connection that may wait while the service answers none.
    """

    address: HostAndPort = "localhost:7233"
    namespace: str = Field(default="default", min_length=1)
    api_key: SecretStr | ApiKeyProvider | None = None
    api_key_file: Path | None = None
    tls: TlsSettings | None = None
    grpc_meta: Mapping[str, str] = Field(default_factory=dict, repr=False)
    identity: str | None = None
    connect_deadline: Duration = timedelta(seconds=30)
    connect_timeout: Duration = timedelta(seconds=10)
    verify_namespace: bool = False
    call_retry_deadline: Duration = timedelta(seconds=10)
    credentials_refresh: Duration = timedelta(seconds=10)
    keep_alive_interval: Duration = timedelta(seconds=30)
    keep_alive_timeout: Duration = timedelta(seconds=15)
    proxy: ProxySettings | None = None
    dns_refresh: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    pool_size: int = Field(default=1, ge=1, le=64)
    ui_url: str | None = None
    max_waiting_calls: int = Field(default=2000, ge=1)

    @model_validator(mode="after")
    def _one_api_key(self) -> Self:
        if self.api_key is not None and self.api_key_file is not None:
            msg = "give either 'api_key' or 'api_key_file'"
            raise ValueError(msg)
        return self

    @property
    def has_api_key(self) -> bool:
        """Whether an API key is sent."""
        return self.api_key is not None or self.api_key_file is not None
