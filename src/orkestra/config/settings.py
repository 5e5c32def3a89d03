"""The settings themselves: frozen values, each default written once."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from orkestra.config.section import Duration, Section


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


class TemporalSettings(Section):
    """Where the Temporal service is and how connections behave.

    Attributes:
        address: `host:port` of the frontend; an IPv6 host stands in brackets.
        namespace: Namespace of clients that name none.
        api_key: Sent as bearer token; switches TLS on.
        tls: TLS settings; None means plain text, or TLS where there is an API key.
        grpc_meta: Metadata sent with every call.
        identity: Name of this process on the server; None means `pid@host`.
        connect_deadline: How long opening a connection is tried altogether.
        connect_timeout: How long one attempt may take.
        verify_namespace: Check that the namespace exists when a connection is opened.
        call_retry_deadline: How long the SDK retries one call that fails in passing.
    """

    address: str = "localhost:7233"
    namespace: str = Field(default="default", min_length=1)
    api_key: SecretStr | None = None
    tls: TlsSettings | None = None
    grpc_meta: Mapping[str, str] = Field(default_factory=dict, repr=False)
    identity: str | None = None
    connect_deadline: Duration = timedelta(seconds=30)
    connect_timeout: Duration = timedelta(seconds=10)
    verify_namespace: bool = False
    call_retry_deadline: Duration = timedelta(seconds=10)

    @field_validator("address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
        is_host = bool(host) and not re.search(r"[\s/]", host)
        if not (is_port and is_host and (":" not in host or host.startswith("["))):
            msg = "must be host:port, for instance 'localhost:7233'"
            raise ValueError(msg)
        return value


class TenancySettings(Section):
    """How the tenant is carried and enforced.

    Attributes:
        mode: `required` refuses whatever has no tenant; `optional` stamps and checks where a
            tenant is known and lets the rest through; `off` leaves tenancy out.
        header: Name of the Temporal header that carries the tenant.
        search_attribute: Keyword search attribute that shows the tenant to people and queries.
        memo: Also write the tenant into the memo, under the header's name.
        fairness: Use the tenant as the fairness key of workflow and activity tasks.
        workflow_ids: `scoped` puts the tenant before every ID on the server, `acme:order-42`;
            `global` leaves IDs as they are given and looks up whose they are instead, which costs
            one or two more requests for each call that finds a workflow by its ID.
    """

    mode: Literal["required", "optional", "off"] = "required"
    header: str = Field(default="tenantId", min_length=1)
    search_attribute: str = Field(default="tenantId", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    memo: bool = False
    fairness: bool = True
    workflow_ids: Literal["scoped", "global"] = "scoped"


class TenantSettings(Section):
    """One tenant of the directory, `[tenants.<id>]` in `orkestra.toml`.

    Attributes:
        status: A `suspended` tenant starts nothing; what runs goes on.
        namespace: A namespace of its own; None means `temporal.namespace`.
        task_queues: Queues of its own, by the name that the code uses: `{orders = "acme-orders"}`
            sends what is started on `orders` to `acme-orders`.
        fairness_weight: Its share of a queue beside the others', 0.001 to 1000; None means 1.
        most_urgent_priority: The smallest priority key that it may use, 1 to 5; 3 is normal.
        encryption_key: Reference of the key that encrypts its payloads.
    """

    status: Literal["active", "suspended"] = "active"
    namespace: str | None = Field(default=None, min_length=1)
    task_queues: Mapping[str, str] = Field(default_factory=dict)
    fairness_weight: float | None = Field(default=None, ge=0.001, le=1000)
    most_urgent_priority: int = Field(default=3, ge=1, le=5)
    encryption_key: str | None = None


class LangfuseSettings(Section):
    """Tracing to Langfuse; off where there are no keys.

    Attributes:
        enabled: None means on where both keys are given.
        public_key: Public key of the Langfuse project.
        secret_key: Secret key of the Langfuse project.
        base_url: Where Langfuse is.
        environment: Langfuse environment, at most 40 of `a-z0-9_-`, not starting with `langfuse`.
        release: Release of the application, for grouping in Langfuse.
        version: Version of what is traced, for comparing in Langfuse.
        sample_rate: Share of traces that are sent, 0 to 1; a trace is sent whole or not at all.
        capture_input: Send arguments of workflows and activities.
        capture_output: Send their results.
        max_value_bytes: Inputs and outputs are cut at this many bytes.
        mask: Called as `mask(data=value)` with everything that would be sent; returns what is.
        flush_timeout: How long a shutdown waits for spans to be sent.
        queue_size: How many spans may wait to be sent; more are dropped and counted.
    """

    enabled: bool | None = None
    public_key: str | None = None
    secret_key: SecretStr | None = None
    base_url: str = "https://cloud.langfuse.com"
    environment: str | None = Field(default=None, pattern=r"^(?!langfuse)[a-z0-9_-]{1,40}$")
    release: str | None = None
    version: str | None = None
    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    capture_input: bool = True
    capture_output: bool = True
    max_value_bytes: int = Field(default=32 * 1024, ge=0)
    mask: Callable[..., Any] | None = Field(default=None, exclude=True)
    flush_timeout: Duration = timedelta(seconds=5)
    queue_size: int = Field(default=10_000, ge=1)

    @model_validator(mode="after")
    def _keys_where_enabled(self) -> Self:
        if self.enabled and not (self.public_key and self.secret_key):
            msg = "enabled needs public_key and secret_key"
            raise ValueError(msg)
        return self

    @property
    def is_on(self) -> bool:
        """Whether spans are sent."""
        return self.enabled is not False and bool(self.public_key and self.secret_key)
