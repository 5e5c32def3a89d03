"""The service client that checks every RPC of a client before the connection sends it.

Interceptors stamp the tenant into calls, but a client can be made without them, and raw requests
pass by them. The guard verifies what is about to be sent, whoever made it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import ConnectConfig, ServiceClient

from orkestra.caches import LruCache
from orkestra.config import TenancySettings
from orkestra.directory import Placements, TenantLabels
from orkestra.errors import ForbiddenOperationError, TenantError, TenantMismatchError
from orkestra.temporal._sdk import (
    BridgeServiceClient,
    CallOptions,
    WorkerServiceClient,
    rpc_call_of,
)
from orkestra.temporal.guard.check import check_metadata, check_request, metric_label, row_of
from orkestra.temporal.guard.ownership import GlobalIdCall, OwnershipCache, OwnershipLookup
from orkestra.temporal.guard.rules import TenantScope
from orkestra.tenancy import (
    ALL_TENANTS,
    AllTenants,
    acting_tenant,
    check_tenant_id,
    current_tenant,
)

_Response = TypeVar("_Response", bound=Message)
_MAX_SCOPES: Final = 1_000

_logger: Final = logging.getLogger("orkestra.temporal.guard")


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardPolicy:
    """Settings and caches that the guarded clients of a program share.

    Attributes:
        settings: Names and mode.
        placements: Queues, weight and priority of each tenant; an open directory allows any queue.
        labels: Metric labels of refused calls.
        ownership: Owners found so far, where IDs are global.
        scopes: Scopes of the tenants that made calls, by tenant and namespace.
    """

    settings: TenancySettings
    placements: Placements = field(default_factory=Placements)
    labels: TenantLabels = field(default_factory=TenantLabels)
    ownership: OwnershipCache = field(default_factory=OwnershipCache)
    scopes: LruCache[tuple[str, str], TenantScope] = field(
        default_factory=lambda: LruCache(_MAX_SCOPES), init=False
    )

    def scope(self, tenant: str, namespace: str) -> TenantScope:
        """Return the scope of a tenant in a namespace."""
        scope = self.scopes.get((tenant, namespace))
        if scope is None:
            scope = TenantScope(
                tenant, namespace=namespace, settings=self.settings, placements=self.placements
            )
            self.scopes.put((tenant, namespace), scope)
        return scope


class GuardedServiceClient(ServiceClient):
    """Service client that refuses what the table in `orkestra.temporal.guard.table` does not allow.

    The acting tenant is the bound one, else that of the running code. `ALL_TENANTS` allows every
    call, except where the code already acts for a tenant. Give code that a tenant controls a bound
    client: it can leave its context, in a new thread for instance, where an unbound client asks
    for a tenant again.

    Args:
        inner: The service client to send with.
        tenant: The tenant that the client is bound to, None or `ALL_TENANTS`.
        namespace: The only namespace that requests may name.
        policy: Settings and caches, shared with other clients.

    Raises:
        InvalidTenantError: The tenant is malformed.
        TenantMismatchError: The code that makes it acts for another tenant.
    """

    def __init__(
        self,
        inner: ServiceClient,
        *,
        tenant: str | AllTenants | None,
        namespace: str,
        policy: GuardPolicy,
    ) -> None:
        super().__init__(RedactedConnectConfig(inner.config))
        if tenant is not None and tenant is not ALL_TENANTS:
            tenant = check_tenant_id(tenant)  # plain text: a subclass could equal any tenant
        running = current_tenant()
        if None not in (running, tenant) and running != tenant:
            msg = f"cannot make a client of {tenant!r}: this code acts for {running!r}"
            raise TenantMismatchError(msg)
        self._inner = inner
        self._tenant = tenant
        self._namespace = str.__str__(namespace)  # plain text, like the tenant
        self._policy = policy
        self._is_required = policy.settings.mode == "required"
        self._last_scope: TenantScope | None = None

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class.

        Raises:
            TenantError: The call is refused; nothing was sent, or the response is withheld.
        """
        row = row_of(options["service"], rpc)
        try:
            is_required = self._is_required and row.needs_tenant
            tenant = acting_tenant(rpc, self._tenant, is_required=is_required)
            if tenant is None and self._tenant is None:
                if self._is_required:
                    tenant = ""  # no tenant acts, and none is needed: the rules still hold
                elif row.needs_tenant:
                    self._count_untenanted(rpc)
            # Copied before it is read: a mapping of the caller's could change in between.
            metadata = options["metadata"] = dict(options["metadata"])
            if metadata:
                check_metadata(rpc, tenant, metadata)
            scope = None
            if tenant is not None:
                scope = self._last_scope  # read once: other threads may replace it
                if scope is None or scope.tenant != tenant:
                    scope = self._last_scope = self._policy.scope(tenant, self._namespace)
                req = check_request(rpc, row, req, scope)
            response: _Response
            if scope is not None and scope.has_global_ids and row.pin is not None:
                send = partial(rpc_call_of(self._inner), rpc, req, resp_type, **options)
                lookup = OwnershipLookup(
                    self._inner.workflow_service,
                    namespace=self._namespace,
                    header=scope.header,
                    cache=self._policy.ownership,
                )
                response = await row.pin(GlobalIdCall(lookup, scope.tenant, rpc, req, send))
            else:
                response = await rpc_call_of(self._inner)(rpc, req, resp_type, **options)
            if scope is not None and row.response is not None:
                row.response(response, scope)
        except TenantError as error:
            self.count_refused(metric_label(options["service"], rpc), error)
            raise
        return response

    def rebound(
        self, *, tenant: str | AllTenants | None, namespace: str, placements: Placements
    ) -> "GuardedServiceClient":
        """Return this service client for another client on it.

        Args:
            tenant: Its tenant; a bound one keeps its own.
            namespace: Its namespace; a bound one keeps its own, once it has one.
            placements: The directory's answers.

        Raises:
            InvalidTenantError: The tenant is malformed.
            TenantMismatchError: This client is bound to another tenant or namespace, or the code
                acts for another tenant.
        """
        namespace = str.__str__(namespace)
        if tenant is not None and tenant is not ALL_TENANTS:
            tenant = check_tenant_id(tenant)
        bound = self._tenant if isinstance(self._tenant, str) else None
        if None not in (bound, tenant) and bound != tenant:
            msg = f"cannot make a client of {tenant!r}: this one acts for {bound!r}"
            raise TenantMismatchError(msg)
        if bound is not None and self._namespace not in ("", namespace):  # B27
            msg = f"a client of {bound!r} cannot be moved to namespace {namespace!r}"
            raise TenantMismatchError(msg)
        if tenant in (None, self._tenant) and namespace == self._namespace:
            return self
        policy = self._policy
        if placements is not policy.placements:
            policy = replace(policy, placements=placements)
        return GuardedServiceClient(
            self._inner,
            tenant=bound if tenant is None else tenant,
            namespace=namespace,
            policy=policy,
        )

    def count_refused(self, call: str, error: TenantError) -> None:
        """Count a call that was refused.

        Args:
            call: Its name, one of a bounded number.
            error: The refusal.
        """
        bound = self._tenant if isinstance(self._tenant, str) else None
        labels = self._policy.labels.of(bound or current_tenant())
        name, text = "orkestra_refused_calls", "Calls that clients were refused"
        self._count(name, text, {"call": call, "kind": type(error).__name__, **labels})

    def _count_untenanted(self, rpc: str) -> None:
        """Show during a migration which calls have no tenant yet."""
        _logger.info("%s without a tenant", rpc)
        text = "Requests without a tenant that mode optional allowed"
        self._count("orkestra_untenanted_requests", text, {"rpc": rpc})

    def _count(self, name: str, text: str, labels: dict[str, str | int | float | bool]) -> None:
        runtime = self._inner.config.runtime or Runtime.default()
        runtime.metric_meter.create_counter(name, text).add(1, labels)

    @property
    def inner(self) -> ServiceClient:
        """The unguarded service client, for the life cycle of the connection only.

        Raises:
            ForbiddenOperationError: The client is bound, or the running code acts for a tenant.
        """
        self._refuse_tenants("inner")
        return self._inner

    @property
    def connection(self) -> Any:
        """The connection of the inner service client, if it has one.

        Raises:
            ForbiddenOperationError: The client is bound, or the running code acts for a tenant.
        """
        self._refuse_tenants("connection")
        return self._inner.connection  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType] - AttributeError is the answer

    @property
    def worker_service_client(self) -> BridgeServiceClient:
        """The service client that the SDK's `Worker` polls with; its RPCs are guarded, too.

        Raises:
            ForbiddenOperationError: The client is bound, or the running code acts for a tenant:
                a worker would take the tasks of others (B3).
        """
        self._refuse_tenants("worker_service_client")
        worker_client = self._inner.worker_service_client
        return WorkerServiceClient(self, lambda: worker_client)

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> NoReturn:
        """Refuse: the connection and its metadata are shared with other clients (B18).

        Raises:
            ForbiddenOperationError: Always.
        """
        del metadata
        _refuse_change("rpc_metadata")

    def update_api_key(self, api_key: str | None) -> NoReturn:
        """Refuse: the connection and its credentials are shared with other clients (B18).

        Raises:
            ForbiddenOperationError: Always.
        """
        del api_key
        _refuse_change("api_key")

    def _refuse_tenants(self, what: str) -> None:
        tenant = self._tenant if isinstance(self._tenant, str) else current_tenant()
        if tenant is not None:
            msg = (
                f"{what} is refused to tenant {tenant!r}: workers and connections serve all"
                " tenants, use a client without tenant, outside of tenant_scope()"
            )
            raise ForbiddenOperationError(msg)


class RedactedConnectConfig(ConnectConfig):
    """Configuration of a connection, without its credentials, and read-only."""

    def __init__(self, config: ConnectConfig) -> None:
        # Past the dataclass, which would set field by field for each of many tenants' clients.
        vars(self).update(
            _UNCONFIGURED,
            target_host=config.target_host,
            identity=config.identity,
            lazy=config.lazy,
            runtime=config.runtime,
            rpc_metadata=_NO_METADATA,
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        _refuse_change(name)


_NO_METADATA: Final[Mapping[str, str | bytes]] = MappingProxyType({})
_UNCONFIGURED: Final = MappingProxyType(vars(ConnectConfig("", identity="nobody")))


def _refuse_change(what: str) -> NoReturn:
    msg = (
        f"{what} cannot be changed on this client: its connection is shared with other tenants'"
        " clients, set it in the configuration"
    )
    raise ForbiddenOperationError(msg)


def unguarded_service(client: Client) -> ServiceClient:
    """Find the service client below the guard; a tenant's client, or tenant code, gets the guard.

    Health checks and search attributes need calls that no tenant may make.
    """
    service = client.service_client
    try:
        inner: ServiceClient = getattr(service, "inner", service)
    except ForbiddenOperationError:
        return service
    return inner


def unguarded_client(client: Client) -> Client:
    """Make a client of the same namespace on `unguarded_service()`, without plugins."""
    return Client(unguarded_service(client), namespace=client.namespace)
