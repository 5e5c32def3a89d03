"""Sections of the configuration, and `OrkestraConfig`, which holds and loads them.

Every section is frozen, refuses unknown keys and writes each default once. A ValidationError names
neither the source of a wrong value nor which values are secret, so `OrkestraConfig.load()` turns it
into one line that does. Modules of the sources are imported only there.
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
    from orkestra.config.sources import SettingsSource


_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_HOST_AND_PORT: Final = re.compile(r"([^\s/:]+|\[[^\s/]+\]):(?P<port>\d{1,5})", re.ASCII)
_LARGEST_PORT: Final = 65_535


def _parse_duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])
    return value


Duration = Annotated[timedelta, BeforeValidator(_parse_duration), Field(ge=timedelta())]
"""Duration of zero or more: a timedelta, seconds, or text such as `30s`, `250ms`, `5m`, `1h`."""


def _check_host_and_port(value: str, *, lowest_port: int, example: str) -> str:
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None or not lowest_port <= int(match["port"]) <= _LARGEST_PORT:
        msg = f"must be host:port, for instance {example!r}"
        raise ValueError(msg)
    return value


def _check_address(value: str) -> str:
    return _check_host_and_port(value, lowest_port=1, example="localhost:7233")


HostAndPort = Annotated[str, AfterValidator(_check_address)]
"""Address `host:port`, with an IPv6 host in brackets."""


class Section(BaseModel):
    """Settings that are frozen and refuse unknown keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        # An error of pydantic shows the input otherwise, secrets included.
        hide_input_in_errors=True,
        # The default engine has no look-ahead, which `_ENVIRONMENT` needs.
        regex_engine="python-re",
    )


# T48: the constructor of Langfuse's SDK does not check it.
_ENVIRONMENT = r"^(?!langfuse)[a-z0-9_-]{1,40}$"


class LangfuseProject(Section):
    """Langfuse project of one tenant, `[tenants.<id>.langfuse]` in `orkestra.toml`.

    Attributes:
        public_key: Public key of the project.
        secret_key: Secret key of the project.
        base_url: URL of its Langfuse server; None means `langfuse.base_url`.
        environment: Langfuse environment; None means `langfuse.environment`.
    """

    public_key: str = Field(min_length=1)
    secret_key: SecretStr
    base_url: str | None = None
    environment: str | None = Field(default=None, pattern=_ENVIRONMENT)


class LangfuseSettings(Section):
    """Tracing to Langfuse, which is off without keys.

    Attributes:
        enabled: Turns tracing on or off; None means on if both keys are given, or a tenant has its
            own project.
        public_key: Public key of the Langfuse project.
        secret_key: Secret key of the Langfuse project.
        base_url: URL of the Langfuse server.
        environment: Langfuse environment, at most 40 of `a-z0-9_-`, not starting with `langfuse`.
        release: Release of the application, to group traces by in Langfuse.
        version: Version of the traced code, to compare traces by in Langfuse.
        sample_rate: Share of traces to send, 0 to 1; a trace is sent completely or not at all.
        capture_input: Send the arguments of workflows and activities.
        capture_output: Send the results of workflows and activities.
        capture_except: Spans whose arguments and results are never sent, by their kind
            (`activity`, `signal`) or their name (`activity:charge_card`, `workflow:Payment*`).
        queries: Record a span for each query.
        timer_threshold: Record a span for each timer of at least this duration; zero means none.
        max_value_bytes: Longest input or output in bytes; longer values are truncated.
        mask: Called as `mask(data=value)` with each value before it is sent; returns the value to
            send.
        flush_timeout: Time limit for sending the remaining spans at a shutdown.
        queue_size: Largest number of spans that wait to be sent to one project; more are dropped
            and counted.
        max_open_projects: Largest number of tenants' projects that are open at once. The least
            recently used one is flushed and closed, and opened again when it is needed.
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
    # Excluded: a function cannot be written to the environment of a worker.
    mask: Callable[..., Any] | None = Field(default=None, exclude=True)
    flush_timeout: Duration = timedelta(seconds=5)
    queue_size: int = Field(default=10_000, ge=1)
    max_open_projects: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _keys_where_enabled(self) -> Self:
        if self.enabled and not (self.public_key and self.secret_key):
            msg = "enabled = true needs public_key and secret_key"
            raise ValueError(msg)
        return self

    @property
    def is_on(self) -> bool:
        """True if spans are sent to this project."""
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
"""Query that the SDK answers itself."""


class TenancySettings(Section):
    """Propagation and enforcement of the tenant.

    Attributes:
        mode: `required` refuses calls and work without a tenant. `optional` allows them, and
            checks those that have a tenant; use it only while migrating. `off` disables tenancy.
        header: Name of the Temporal header that carries the tenant.
        search_attribute: Keyword search attribute that holds the tenant for people and queries.
        memo: Also write the tenant into the memo, under the name of the header.
        fairness: Use the tenant as the fairness key of workflow and activity tasks.
        workflow_ids: `scoped` prefixes every ID on the server with the tenant, `acme:order-42`.
            `global` keeps IDs as they are given and looks up their tenant, which costs one or two
            more requests for each call that finds a workflow by its ID.
        built_in_queries: The SDK's own queries that are answered without a tenant, for instance
            to the UI; the others are checked as any query.
        metrics_tenant_label: Give Orkestra's counters the label `tenant`, for at most 1,000
            tenants that the directory knows; others are `unknown`.
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
        status: A `suspended` tenant cannot start workflows; its running workflows continue.
        namespace: Namespace of the tenant; None means `temporal.namespace`.
        task_queues: The tenant's own queues by the name that the code uses:
            `{orders = "acme-orders"}` sends work for `orders` to `acme-orders`.
        fairness_weight: Weight of the tenant on a shared queue, 0.001 to 1000; None means 1.
        most_urgent_priority: Smallest priority key that the tenant can use, 1 to 5; 3 is normal.
        encryption_key: Reference of the key that encrypts the tenant's payloads.
        langfuse: The tenant's own Langfuse project; None means the shared one, `langfuse`.
    """

    status: Literal["active", "suspended"] = "active"
    namespace: str | None = Field(default=None, min_length=1)
    task_queues: Mapping[str, str] = Field(default_factory=dict)
    fairness_weight: float | None = Field(default=None, ge=0.001, le=1000)
    most_urgent_priority: int = Field(default=3, ge=1, le=5)
    encryption_key: str | None = None
    langfuse: LangfuseProject | None = None


class CertificateSource(Section):
    """PEM certificate or key, as a file or as text.

    Attributes:
        path: File that is read when a connection is opened.
        data: PEM text.
    """

    path: Path | None = None
    data: SecretStr | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.path is None) == (self.data is None):
            msg = "give exactly one of 'path' and 'data'"
            raise ValueError(msg)
        return self


class TlsSettings(Section):
    """TLS settings, with the keys of `temporal.toml`.

    Attributes:
        disabled: True forces plain text, False forces TLS; None means TLS if another TLS setting or
            an API key is given.
        server_name: Name in the server's certificate, if it is not the host of the address.
        server_ca_cert: Certificate authority to trust instead of the system's.
        client_cert: Client certificate for mTLS; needs `client_key`.
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
            msg = "client_cert and client_key need each other: give both or neither"
            raise ValueError(msg)
        return self


class ProxySettings(Section):
    """HTTP CONNECT proxy for connections to the Temporal service.

    Attributes:
        address: Address of the proxy, `host:port`.
        user: User name; needs `password`.
        password: Password of the user.
    """

    address: HostAndPort
    user: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _user_with_password(self) -> Self:
        if (self.user is None) != (self.password is None):
            msg = "user and password need each other: give both or neither"
            raise ValueError(msg)
        return self


ApiKeyProvider = Callable[[], str | Awaitable[str]]
"""Function, sync or async, that returns the current API key."""


class TemporalSettings(Section):
    """Address of the Temporal service, and behaviour of connections.

    Attributes:
        address: Address of the frontend, `host:port`, with an IPv6 host in brackets.
        namespace: Default namespace of clients and workers.
        api_key: API key, sent as bearer token; turns TLS on. In code also a function, sync or
            async, that returns the current key and is called every `credentials_refresh`.
        api_key_file: File with the API key, read again every `credentials_refresh`.
        tls: TLS settings; None means plain text, or TLS if there is an API key.
        grpc_meta: Metadata to send with every call.
        identity: Name of this process on the server; None means `pid@host`.
        connect_deadline: Time limit for opening a connection, all attempts together.
        connect_timeout: Time limit of one attempt.
        verify_namespace: Check that the namespace exists when a connection is opened.
        call_retry_deadline: Time limit for the SDK's retries of one call.
        credentials_refresh: Interval for checking the API key and certificate files for changes;
            zero means never.
        keep_alive_interval: Interval of pings on an open connection; zero means no pings.
        keep_alive_timeout: Time limit for the answer to a ping, after which the connection closes.
        proxy: Proxy to connect through; None means a direct connection.
        dns_refresh: Interval for resolving the host, at least 1 s, to spread calls over all of its
            addresses; None resolves it for each new connection and uses one address.
        pool_size: Number of connections of a manager, which its clients share in turn.
        ui_url: URL of the Temporal UI, for links from traces to workflows.
        max_waiting_calls: Largest number of calls of one connection that wait while the service
            does not answer.
    """

    address: HostAndPort = "localhost:7233"
    namespace: str = Field(default="default", min_length=1)
    api_key: SecretStr | ApiKeyProvider | None = None
    api_key_file: Path | None = None
    tls: TlsSettings | None = None
    # Not shown: it may carry a token.
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
            msg = "give only one of 'api_key' and 'api_key_file'"
            raise ValueError(msg)
        return self

    @property
    def has_api_key(self) -> bool:
        """True if an API key is sent."""
        return self.api_key is not None or self.api_key_file is not None


_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_FIXED_SLOTS: Final = (
    "max_concurrent_workflow_tasks",
    "max_concurrent_activities",
    "max_concurrent_local_activities",
    "max_concurrent_nexus_tasks",
)


class SandboxSettings(Section):
    """Modules that the workflow sandbox shares instead of importing them for each workflow.

    Attributes:
        passthrough: Modules to share in addition to installed packages.
        reload: Installed top-level packages to import again for each workflow.
    """

    passthrough: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()


class PollerSettings(Section):
    """Number of concurrent polls for one kind of task.

    Attributes:
        autoscaling: Let the server adjust the number between `minimum` and `maximum`.
        maximum: Largest number; None means 5, or 100 with autoscaling.
        minimum: Smallest number with autoscaling; None means 1.
        initial: First number with autoscaling; None means 5, or `maximum` if that is smaller.
    """

    autoscaling: bool = False
    maximum: _Count | None = None
    minimum: _Count | None = None
    initial: _Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.autoscaling:
            if self.minimum is not None or self.initial is not None:
                msg = "minimum and initial need autoscaling = true: without it, give only maximum"
                raise ValueError(msg)
            return self
        low, first, high = self.range
        if not low <= first <= high:
            msg = f"minimum {low}, initial {first}, maximum {high} are not in ascending order"
            raise ValueError(msg)
        return self

    @property
    def range(self) -> tuple[int, int, int]:
        """Minimum, initial and maximum number with autoscaling."""
        maximum = self.maximum or 100
        minimum = self.minimum or 1
        return minimum, self.initial or min(max(5, minimum), maximum), maximum


class TunerSettings(Section):
    """Concurrency by the load of the machine instead of fixed numbers.

    Attributes:
        target_memory_usage: Share of the memory, 0 to 1, up to which the worker takes new tasks.
        target_cpu_usage: Share of all processors, 0 to 1, up to which the worker takes new tasks.
        maximum_activities: Largest number of concurrent activities, and of threads for them.
        maximum_workflow_tasks: Largest number of concurrent workflow tasks.
    """

    target_memory_usage: float = Field(default=0.8, gt=0, le=1)
    target_cpu_usage: float = Field(default=0.9, gt=0, le=1)
    maximum_activities: _Count = 500
    maximum_workflow_tasks: Annotated[int, Field(ge=2)] = 500


class DeploymentSettings(Section):
    """Version of the worker's code, for worker versioning.

    Attributes:
        deployment_name: Name that all versions of the application's workers share; without a dot.
        build_id: This version, such as a commit or the tag of an image.
        default_versioning_behavior: Behaviour of workflows that declare none: `pinned` workflows
            stay on the version they started on, `auto_upgrade` workflows move to the current one,
            and `unspecified` refuses such workflows.
        use_worker_versioning: False only reports the version to the server.
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
    """Concurrency, polling and shutdown of workers.

    Attributes:
        graceful_shutdown_timeout: Time for activities to finish after a stop signal.
        cancellation_timeout: Time for cancelled activities to end before the process exits.
        max_concurrent_activities: Number of concurrent activities; None means the SDK's 100.
        max_concurrent_workflow_tasks: Number of concurrent workflow tasks; None means the SDK's
            100.
        max_concurrent_local_activities: Number of concurrent local activities; None means the
            SDK's 100.
        max_concurrent_nexus_tasks: Number of concurrent Nexus operations; None means the SDK's 100.
        tuner: Concurrency by the load of the machine, instead of the four numbers above.
        max_cached_workflows: Number of workflows to keep in memory between their tasks.
        activity_threads: Number of threads for activities that are not async; None means one for
            each concurrent activity.
        workflow_task_poller_behavior: Polls for workflow tasks.
        activity_task_poller_behavior: Polls for activities.
        nexus_task_poller_behavior: Polls for Nexus operations.
        nonsticky_to_sticky_poll_ratio: Share of the workflow polls, 0 to 1, for workflows that are
            not in this worker's memory.
        sticky_queue_schedule_to_start_timeout: Time that a task waits for the worker that has its
            workflow in memory, before any worker can take it.
        max_activities_per_second: Largest rate at which this worker starts activities.
        max_task_queue_activities_per_second: Largest rate at which all workers of the queue start
            activities; the server uses the number that it received last.
        max_heartbeat_throttle_interval: Longest interval between heartbeats that are sent.
        default_heartbeat_throttle_interval: Interval for activities without a heartbeat time-out.
        deployment_config: Version of the code, for worker versioning.
        restart: Start a failed worker again, after a pause that grows from one second; otherwise
            the process exits.
        restart_longest_pause: Longest pause before a restart.
        probes_address: Address `host:port` of `/livez`, `/readyz` and `/metrics`; None serves
            nothing, and port 0 uses a free port.
        liveness_timeout: Time without the event loop running after which `/livez` fails.
        sandbox: Modules that the workflow sandbox shares.
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
    def _check_probes_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return _check_host_and_port(value, lowest_port=0, example="127.0.0.1:9464")

    @model_validator(mode="after")
    def _without_contradictions(self) -> Self:
        for problem in (self._slots_problem(), self._polls_problem(), self._heartbeat_problem()):
            if problem is not None:
                raise ValueError(problem)
        return self

    def _slots_problem(self) -> str | None:
        given = [name for name in _FIXED_SLOTS if getattr(self, name) is not None]
        if self.tuner is not None and given:
            return f"tuner and {given[0]} exclude each other: give only one of them"
        if self.max_cached_workflows and self.max_concurrent_workflow_tasks == 1:
            return "max_concurrent_workflow_tasks = 1 needs max_cached_workflows = 0: use 2 or more"
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


class OrkestraConfig(Section):
    """The whole configuration.

    Construct it in code, or read it from files and the environment with `load()`.

    Attributes:
        temporal: Address of the Temporal service, and behaviour of connections.
        tenancy: Propagation and enforcement of the tenant.
        langfuse: Tracing to Langfuse, which is off without keys.
        worker: Concurrency, polling and shutdown of workers.
        tenants: Directory of tenants by ID. Without it every well-formed tenant ID is accepted,
            and its tenant is active and uses the shared namespace and queues.
    """

    temporal: TemporalSettings = TemporalSettings()
    tenancy: TenancySettings = TenancySettings()
    langfuse: LangfuseSettings = LangfuseSettings()
    worker: WorkerSettings = WorkerSettings()
    tenants: Mapping[str, TenantSettings] = Field(default_factory=dict)

    @classmethod
    def load(cls, file: Path | str | None = None) -> Self:
        """Read the configuration from its sources, where later ones override earlier ones.

        The sources in order: defaults; the profile of `temporal.toml` that `TEMPORAL_PROFILE`
        names, as the `temporal` command reads it; `orkestra.toml`; the environment, `TEMPORAL_*`
        and `LANGFUSE_*` as those tools define them and `ORKESTRA_<SECTION>__<KEY>` for the rest.

        Args:
            file: Path of the Orkestra file; None means `orkestra.toml` in the working directory,
                if it exists.

        Raises:
            ConfigurationError: A file is missing or malformed, a key is unknown or a value is
                wrong. The message names the key, the value and its source.
        """
        # The import takes a tenth of a second, which configurations made in code do not need.
        from orkestra.config.sources import read_sources  # noqa: PLC0415

        sources = list(read_sources(OrkestraConfig, None if file is None else Path(file)))
        merged: dict[str, Any] = {}
        for source in sources:
            _merge(merged, source.values)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            lines = [_explain(detail, sources) for detail in error.errors()]
            # From None: the lines say all that the ValidationError does, and more.
            raise ConfigurationError("; ".join(lines)) from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            # By key, not by section: the environment can override one key of a section in a file.
            _merge(into.setdefault(key, {}), cast("Mapping[str, Any]", value))
        else:
            into[key] = value


def _explain(detail: ErrorDetails, sources: "Sequence[SettingsSource]") -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    origin = next((source.name for source in reversed(sources) if source.has(location)), "defaults")
    shown = "" if _SECRET_KEYS.intersection(location) else f" = {detail['input']!r}"
    # A whole section may hold secrets, and is too long for a line.
    if isinstance(detail["input"], Mapping):
        shown = ""
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        reason = "unknown key"
    return f"{key}{shown} from {origin}: {reason}"
