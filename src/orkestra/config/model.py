"""What all sections of the configuration are made of.

The settings themselves: frozen values, each default written once.

How and where traces are sent.

How the Temporal service is reached.

The settings of workers: what they run at once, how they poll, and how they stop.

`OrkestraConfig`, and how it is loaded.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from orkestra.errors import ConfigurationError

if TYPE_CHECKING:
    from orkestra.config.sources import Source


_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    return value


Duration = Annotated[timedelta, BeforeValidator(_parse_duration), Field(ge=timedelta())]
"""A duration of zero or more: a timedelta, seconds, or text such as `30s`, `250ms`, `5m`, `1h`."""


class Section(BaseModel):
    """Settings that are frozen, and know all their keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        regex_engine="python-re",
    )


_ENVIRONMENT = r"^(?!langfuse)[a-z0-9_-]{1,40}$"


class LangfuseProject(Section):
    """A tenant's own Langfuse project, `[tenants.<id>.langfuse]` in `orkestra.toml`.

    Attributes:
        public_key: Public key of the project.
        secret_key: Secret key of the project.
        base_url: Where its Langfuse is; None means `langfuse.base_url`.
        environment: Its Langfuse environment; None means `langfuse.environment`.
    """

    public_key: str = Field(min_length=1)
    secret_key: SecretStr
    base_url: str | None = None
    environment: str | None = Field(default=None, pattern=_ENVIRONMENT)


class LangfuseSettings(Section):
    """Tracing to Langfuse; off where there are no keys.

    Attributes:
        enabled: None means on where both keys are given, or a tenant has a project of its own.
        public_key: Public key of the Langfuse project.
        secret_key: Secret key of the Langfuse project.
        base_url: Where Langfuse is.
        environment: Langfuse environment, at most 40 of `a-z0-9_-`, not starting with `langfuse`.
        release: Release of the application, for grouping in Langfuse.
        version: Version of what is traced, for comparing in Langfuse.
        sample_rate: Share of traces that are sent, 0 to 1; a trace is sent whole or not at all.
        capture_input: Send arguments of workflows and activities.
        capture_output: Send their results.
        capture_except: Spans whose arguments and results are never sent, by their kind
            (`activity`, `signal`) or their name (`activity:charge_card`, `workflow:Payment*`).
        queries: Make spans of queries, too.
        timer_threshold: Make spans of timers that took as long; zero means of none.
        max_value_bytes: Inputs and outputs are cut at this many bytes.
        mask: Called as `mask(data=value)` with everything that would be sent; returns what is.
        flush_timeout: How long a shutdown waits for spans to be sent.
        queue_size: How many spans may wait to be sent to a project; more are dropped and counted.
        max_open_projects: How many tenants' projects are kept open; the longest unused is sent what
            it still has, and opened again when it is needed.
    """

    enabled: bool | None = None
    public_key: str | None = None
    secret_key: SecretStr | None = None
    base_url: str = "https://cloud.langfuse.com"
    environment: str | None = Field(default=None, pattern=_ENVIRONMENT)
    release: str | None = None
    version: str | None = None
    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    capture_input: bool = True
    capture_output: bool = True
    capture_except: tuple[str, ...] = ()
    queries: bool = False
    timer_threshold: Duration = timedelta(seconds=10)
    max_value_bytes: int = Field(default=32 * 1024, ge=0)
    mask: Callable[..., Any] | None = Field(default=None, exclude=True)
    flush_timeout: Duration = timedelta(seconds=5)
    queue_size: int = Field(default=10_000, ge=1)
    max_open_projects: int = Field(default=16, ge=1)

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

    def for_project(self, project: LangfuseProject) -> Self:
        """Return the same settings for a tenant's own project.

        Args:
            project: Keys of the project, and what else differs.
        """
        return self.model_copy(
            update={
                "public_key": project.public_key,
                "secret_key": project.secret_key,
                "base_url": project.base_url or self.base_url,
                "environment": project.environment or self.environment,
                "enabled": True,
            }
        )


BuiltInQuery = Literal["__stack_trace", "__enhanced_stack_trace", "__temporal_workflow_metadata"]
"""A query that the SDK answers itself."""


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
        built_in_queries: The SDK's own queries that are answered without a tenant, to the UI for
            instance; leave one out to have it checked as any other.
        metrics_tenant_label: Give Orkestra's own counters the label `tenant`, for tenants that the
            directory knows, 1,000 at most; others are `unknown`.
    """

    mode: Literal["required", "optional", "off"] = "required"
    header: str = Field(default="tenantId", min_length=1)
    search_attribute: str = Field(default="tenantId", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    memo: bool = False
    fairness: bool = True
    workflow_ids: Literal["scoped", "global"] = "scoped"
    built_in_queries: tuple[BuiltInQuery, ...] = get_args(BuiltInQuery)
    metrics_tenant_label: bool = False


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
        langfuse: A Langfuse project of its own; None means the shared one, `langfuse`.
    """

    status: Literal["active", "suspended"] = "active"
    namespace: str | None = Field(default=None, min_length=1)
    task_queues: Mapping[str, str] = Field(default_factory=dict)
    fairness_weight: float | None = Field(default=None, ge=0.001, le=1000)
    most_urgent_priority: int = Field(default=3, ge=1, le=5)
    encryption_key: str | None = None
    langfuse: LangfuseProject | None = None


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


_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_ADDRESS: Final = re.compile(r"([^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", re.ASCII)
_PORTS: Final = 65_536
_FIXED_SLOTS: Final = (
    "max_concurrent_workflow_tasks",
    "max_concurrent_activities",
    "max_concurrent_local_activities",
    "max_concurrent_nexus_tasks",
)


class SandboxSettings(Section):
    """What the workflow sandbox passes through instead of importing again for each workflow.

    Attributes:
        passthrough: Modules to pass through besides installed packages.
        reload: Installed top-level packages to import again for each workflow all the same.
    """

    passthrough: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()


class PollerSettings(Section):
    """How many polls of one kind of task wait at the server at once.

    Attributes:
        autoscaling: Let the server's hints move the number between `minimum` and `maximum`.
        maximum: At most so many; None means 5, or 100 with autoscaling.
        minimum: With autoscaling, at least so many; None means 1.
        initial: With autoscaling, so many to begin with; None means 5, or `maximum` if less.
    """

    autoscaling: bool = False
    maximum: _Count | None = None
    minimum: _Count | None = None
    initial: _Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.autoscaling:
            if self.minimum is not None or self.initial is not None:
                msg = "minimum and initial need autoscaling = true: without it, give maximum alone"
                raise ValueError(msg)
            return self
        low, first, high = self.range
        if not low <= first <= high:
            msg = f"minimum {low}, initial {first}, maximum {high} are not in ascending order"
            raise ValueError(msg)
        return self

    @property
    def range(self) -> tuple[int, int, int]:
        """Minimum, initial and maximum of autoscaling."""
        maximum = self.maximum or 100
        minimum = self.minimum or 1
        return minimum, self.initial or min(max(5, minimum), maximum), maximum


class TunerSettings(Section):
    """Slots by the machine's load instead of by number.

    Attributes:
        target_memory_usage: Share of the memory, 0 to 1, that new work may bring it to.
        target_cpu_usage: Share of all processors, 0 to 1, that new work may bring them to.
        maximum_activities: At most so many activities at once, and as many threads for them.
        maximum_workflow_tasks: At most so many workflow tasks at once.
    """

    target_memory_usage: float = Field(default=0.8, gt=0, le=1)
    target_cpu_usage: float = Field(default=0.9, gt=0, le=1)
    maximum_activities: _Count = 500
    maximum_workflow_tasks: Annotated[int, Field(ge=2)] = 500


class DeploymentSettings(Section):
    """Which version of the code the worker runs, for worker versioning.

    Attributes:
        deployment_name: Name that all versions of one application's workers share; without a dot.
        build_id: This version: a commit or an image's tag.
        default_versioning_behavior: Of workflows that do not say it themselves: `pinned` ones end
            on the version they began on, `auto_upgrade` ones move on; `unspecified` refuses
            workflows that do not say it.
        use_worker_versioning: False only tells the server the version.
    """

    deployment_name: str = Field(pattern=r"^[^.\s]+$")
    build_id: str = Field(min_length=1)
    default_versioning_behavior: Literal["unspecified", "pinned", "auto_upgrade"] = "unspecified"
    use_worker_versioning: bool = True

    @model_validator(mode="after")
    def _behaviour_of_versions(self) -> Self:
        if not self.use_worker_versioning and self.default_versioning_behavior != "unspecified":
            msg = "default_versioning_behavior needs use_worker_versioning = true"
            raise ValueError(msg)
        return self


class WorkerSettings(Section):
    """How workers run and stop. None leaves a limit to the SDK.

    Attributes:
        graceful_shutdown_timeout: How long activities in flight may go on after a stop signal.
        cancellation_timeout: How long cancelled activities may take before the process is ended.
        max_concurrent_activities: Activities that run at once; None is the SDK's default, 100.
        max_concurrent_workflow_tasks: Workflow tasks at once; None is the SDK's default, 100.
        max_concurrent_local_activities: Local activities at once; None is the SDK's default, 100.
        max_concurrent_nexus_tasks: Nexus operations at once; None is the SDK's default, 100.
        tuner: Slots by the machine's load, instead of the four numbers above.
        max_cached_workflows: Workflows kept in memory between their tasks.
        activity_threads: Threads for activities that are not async; None means one for each
            concurrent activity.
        workflow_task_poller_behavior: Polls for workflow tasks.
        activity_task_poller_behavior: Polls for activities.
        nexus_task_poller_behavior: Polls for Nexus operations.
        nonsticky_to_sticky_poll_ratio: Share of the workflow polls, 0 to 1, that look for
            workflows which this worker does not have in memory.
        sticky_queue_schedule_to_start_timeout: How long a task waits for the worker that has its
            workflow in memory, before any worker may take it.
        max_activities_per_second: Activities that this worker starts in a second.
        max_task_queue_activities_per_second: Activities that all workers of the queue start in a
            second; the server keeps the number that came last.
        max_heartbeat_throttle_interval: Heartbeats are sent at least so often.
        default_heartbeat_throttle_interval: How often, where an activity has no heartbeat time-out.
        deployment_config: Version of the code, for worker versioning.
        restart: Make a worker that failed anew, after a pause that grows from a second; otherwise
            the process ends and whoever started it has to start it again.
        restart_longest_pause: The longest pause before a worker is made anew.
        probes_address: `host:port` that serves `/livez`, `/readyz` and `/metrics`; None serves
            nothing, port 0 is any free one.
        liveness_timeout: `/livez` fails when the event loop has not run for so long.
        sandbox: What the workflow sandbox passes through.
    """

    graceful_shutdown_timeout: Duration = timedelta(seconds=30)
    cancellation_timeout: Duration = timedelta(seconds=10)
    max_concurrent_activities: _Count | None = None
    max_concurrent_workflow_tasks: _Count | None = None
    max_concurrent_local_activities: _Count | None = None
    max_concurrent_nexus_tasks: _Count | None = None
    tuner: TunerSettings | None = None
    max_cached_workflows: int = Field(default=1000, ge=0)
    activity_threads: _Count | None = None
    workflow_task_poller_behavior: PollerSettings = PollerSettings()
    activity_task_poller_behavior: PollerSettings = PollerSettings()
    nexus_task_poller_behavior: PollerSettings = PollerSettings()
    nonsticky_to_sticky_poll_ratio: float = Field(default=0.2, ge=0, le=1)
    sticky_queue_schedule_to_start_timeout: Duration = timedelta(seconds=10)
    max_activities_per_second: _Rate | None = None
    max_task_queue_activities_per_second: _Rate | None = None
    max_heartbeat_throttle_interval: Duration = timedelta(seconds=60)
    default_heartbeat_throttle_interval: Duration = timedelta(seconds=30)
    deployment_config: DeploymentSettings | None = None
    restart: bool = False
    restart_longest_pause: Duration = timedelta(minutes=1)
    probes_address: str | None = None
    liveness_timeout: Duration = timedelta(seconds=30)
    sandbox: SandboxSettings = SandboxSettings()

    @field_validator("probes_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not (
            (match := _ADDRESS.fullmatch(value)) and int(match["port"]) < _PORTS
        ):
            msg = "must be host:port, for instance '127.0.0.1:9464'"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _without_contradictions(self) -> Self:
        for problem in (self._slots_problem(), self._polls_problem(), self._heartbeat_problem()):
            if problem is not None:
                raise ValueError(problem)
        return self

    def _slots_problem(self) -> str | None:
        given = [name for name in _FIXED_SLOTS if getattr(self, name) is not None]
        if self.tuner is not None and given:
            return f"tuner and {given[0]} exclude each other: leave one of them out"
        if self.max_cached_workflows and self.max_concurrent_workflow_tasks == 1:
            return "max_concurrent_workflow_tasks = 1 needs max_cached_workflows = 0, or 2 of them"
        return None

    def _polls_problem(self) -> str | None:
        polls = self.workflow_task_poller_behavior
        if self.max_cached_workflows and not polls.autoscaling and polls.maximum == 1:
            return "workflow_task_poller_behavior needs maximum = 2, or max_cached_workflows = 0"
        return None

    def _heartbeat_problem(self) -> str | None:
        if self.default_heartbeat_throttle_interval > self.max_heartbeat_throttle_interval:
            return "default_heartbeat_throttle_interval exceeds max_heartbeat_throttle_interval"
        return None


_SECRET_KEYS: Final = frozenset({"api_key", "secret_key", "data", "grpc_meta", "password"})


class OrkestraConfig(BaseModel):
    """Everything that can be configured.

    Construct it in code, which reads nothing, or `load()` it.

    Attributes:
        temporal: Where the Temporal service is and how connections behave.
        tenancy: How the tenant is carried and enforced.
        langfuse: Tracing; off where there are no keys.
        worker: How workers run and stop.
        tenants: The directory of tenants, by ID; where there is none, every well-formed tenant is
            known, active and in the shared namespace and queues.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True
    )

    temporal: TemporalSettings = TemporalSettings()
    tenancy: TenancySettings = TenancySettings()
    langfuse: LangfuseSettings = LangfuseSettings()
    worker: WorkerSettings = WorkerSettings()
    tenants: Mapping[str, TenantSettings] = Field(default_factory=dict)

    @classmethod
    def load(cls, file: Path | str | None = None) -> Self:
        """Read the configuration, later over earlier.

        The order: defaults; the profile of `temporal.toml` that `TEMPORAL_PROFILE` names, as the
        `temporal` command line reads it; `orkestra.toml`; the environment: `TEMPORAL_*` and
        `LANGFUSE_*` as those tools define them, and `ORKESTRA_<SECTION>__<KEY>` for the rest.

        Args:
            file: The Orkestra file; None means `orkestra.toml` in the working directory, where
                there is one.

        Returns:
            The configuration.

        Raises:
            ConfigurationError: A file is missing or malformed, a key is unknown or a value is
                wrong; the message names the key, the value and where it came from.
        """
        # Reading costs an import of a tenth of a second, which clients built in code need not pay.
        from orkestra.config.sources import read_sources  # noqa: PLC0415

        sources = list(read_sources(OrkestraConfig, None if file is None else Path(file)))
        merged: dict[str, Any] = {}
        for source in sources:
            _merge(merged, source.values)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            lines = [_explain(detail, sources) for detail in error.errors()]
            raise ConfigurationError("; ".join(lines)) from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), cast("Mapping[str, Any]", value))
        else:
            into[key] = value


def _explain(detail: ErrorDetails, sources: "Sequence[Source]") -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    origin = next((source.name for source in reversed(sources) if source.has(location)), "defaults")
    shown = "" if _SECRET_KEYS.intersection(location) else f" = {detail['input']!r}"
    if isinstance(detail["input"], Mapping):
        shown = ""
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        reason = "unknown key"
    return f"{key}{shown} from {origin}: {reason}"
