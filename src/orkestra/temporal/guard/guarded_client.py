"""The service client that stands between a client and the connection.

What tenants may see of how a connection is configured.

Counts what the guard refuses, and what it lets through without a tenant.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.client import Client
from temporalio.common import MetricCounter
from temporalio.runtime import Runtime
from temporalio.service import ConnectConfig, ServiceClient

from orkestra.config import TenancySettings
from orkestra.directory import TenantLabels
from orkestra.errors import (
    ForbiddenOperationError,
    TenantError,
    TenantMismatchError,
)
from orkestra.temporal._sdk import (
    BridgeServiceClient,
    CallOptions,
    WorkerServiceClient,
    rpc_call_of,
)
from orkestra.temporal.guard.check import admit, label_of, plain_metadata, refuse, row_of
from orkestra.temporal.guard.ownership import GlobalIds, OwnerMemory, Owners
from orkestra.temporal.guard.rules import SHARED_QUEUES, Allowed, Bounds, Denied, Grants
from orkestra.tenancy import (
    ALL_TENANTS,
    AllTenants,
    acting_tenant,
    check_tenant_id,
    current_tenant,
)

_Response = TypeVar("_Response", bound=Message)
_REMEMBERED_TENANTS: Final = 256


class GuardedServiceClient(ServiceClient):
    """Checks every RPC of a client, however it is made, before the connection gets it.

    The interceptors write the tenant into requests and scope their IDs; this verifies it, for
    requests too that were made without them. An RPC or a set field that the table of
    `orkestra.temporal.guard.table` has no rule for is refused.

    The acting tenant is the bound one, else that of the running code. `ALL_TENANTS` opens the
    gate, except where the code already acts for a tenant. Give code that a tenant controls a bound
    client: it can leave its context, in a new thread for instance, where an unbound client asks
    for a tenant again.

    Args:
        inner: The service client to send with.
        tenant: The tenant that the client is bound to, None or `ALL_TENANTS`.
        namespace: The only namespace that requests may name.
        settings: Names and mode.
        grants: Which queues, weight and priority a tenant has; None grants every queue.
        owners: What has been found out of whose executions are, where IDs do not say it; None
            begins anew.
        labels: What refused calls are counted under; None names no tenants.

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
        settings: TenancySettings,
        grants: Grants = SHARED_QUEUES,
        owners: OwnerMemory | None = None,
        labels: TenantLabels | None = None,
    ) -> None:
        super().__init__(PublicConfig(inner.config))
        tenant = plain_tenant(tenant)
        running = current_tenant()
        if None not in (running, tenant) and running != tenant:
            msg = f"cannot make a client of {tenant!r}: this code acts for {running!r}"
            raise TenantMismatchError(msg)
        self._inner = inner
        self._tenant = tenant
        self._namespace = str.__str__(namespace)
        self._settings = settings
        self._grants = grants
        self._labels = labels or TenantLabels()
        self._bounds: dict[str, Bounds] = {}
        self._owners = Owners(
            inner.workflow_service,
            namespace=namespace,
            header=settings.header,
            memory=owners or OwnerMemory(),
        )

    def for_tenant(self, tenant: str) -> "GuardedServiceClient":
        """A service client bound to a tenant, on the same connection.

        Args:
            tenant: The tenant; of a bound client only its own.

        Raises:
            InvalidTenantError: The tenant is malformed.
            TenantMismatchError: This client is bound to another tenant, or the code acts for one.
        """
        tenant = check_tenant_id(tenant)
        if isinstance(self._tenant, str) and self._tenant != tenant:
            msg = f"cannot make a client of {tenant!r}: this one acts for {self._tenant!r}"
            raise TenantMismatchError(msg)
        return GuardedServiceClient(
            self._inner,
            tenant=tenant,
            namespace=self._namespace,
            settings=self._settings,
            grants=self._grants,
            labels=self._labels,
        )

    def rebound(
        self, *, tenant: str | AllTenants | None, namespace: str, grants: Grants
    ) -> "GuardedServiceClient":
        """This service client for another client on it.

        Args:
            tenant: Its tenant; a bound one keeps its own.
            namespace: Its namespace; a bound one keeps its own, once it has one.
            grants: What the directory grants in that namespace.

        Raises:
            InvalidTenantError: The tenant is malformed.
            TenantMismatchError: This client is bound to another tenant or namespace, or the code
                acts for another tenant.
        """
        tenant, namespace = plain_tenant(tenant), str.__str__(namespace)
        bound = self._tenant if isinstance(self._tenant, str) else None
        if None not in (bound, tenant) and bound != tenant:
            msg = f"cannot make a client of {tenant!r}: this one acts for {bound!r}"
            raise TenantMismatchError(msg)
        if bound is not None and self._namespace not in ("", namespace):
            msg = f"a client of {bound!r} cannot be moved to namespace {namespace!r}"
            raise TenantMismatchError(msg)
        if tenant in (None, self._tenant) and namespace == self._namespace:
            return self
        return GuardedServiceClient(
            self._inner,
            tenant=bound if tenant is None else tenant,
            namespace=namespace,
            settings=self._settings,
            grants=grants,
            owners=self._owners.memory,
            labels=self._labels,
        )

    @property
    def inner(self) -> ServiceClient:
        """The unguarded service client, for the life cycle of the connection only.

        Raises:
            ForbiddenOperationError: The client is bound, or the running code acts for a tenant.
        """
        refuse_to_tenants("inner", bound=self._tenant)
        return self._inner

    @property
    def connection(self) -> Any:
        """The connection of the inner service client, where it has one.

        Raises:
            ForbiddenOperationError: The client is bound, or the running code acts for a tenant.
        """
        refuse_to_tenants("connection", bound=self._tenant)
        return self._inner.connection  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType] - AttributeError is the answer

    @property
    def worker_service_client(self) -> BridgeServiceClient:
        """What the SDK's `Worker` polls with; its RPCs are guarded, too.

        Raises:
            ForbiddenOperationError: The client is bound, or the running code acts for a tenant:
                a worker would take the tasks of others.
        """
        refuse_to_tenants("worker_service_client", bound=self._tenant)
        worker_client = self._inner.worker_service_client
        return WorkerServiceClient(self, lambda: worker_client)

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> NoReturn:
        """Refused: the connection and its metadata are shared with other clients.

        Raises:
            ForbiddenOperationError: Always.
        """
        del metadata
        refuse_change("rpc_metadata")

    def update_api_key(self, api_key: str | None) -> NoReturn:
        """Refused: the connection and its credentials are shared with other clients.

        Raises:
            ForbiddenOperationError: Always.
        """
        del api_key
        refuse_change("api_key")

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class.

        Raises:
            TenantError: The call is refused; nothing has been sent, or nothing is given out.
        """
        service = options["service"]
        try:
            return await self._send(rpc, row_of(service, rpc), req, resp_type, options)
        except TenantError as error:
            self.count_refused(label_of(service, rpc), error)
            raise

    async def _send(
        self,
        rpc: str,
        row: Allowed | Denied,
        req: Message,
        resp_type: type[_Response],
        options: CallOptions,
    ) -> _Response:
        tenant = self._acting_tenant(rpc, row)
        options["metadata"] = plain_metadata(rpc, tenant, options["metadata"])
        bounds = None if tenant is None else self._bounds_of(tenant)
        if bounds is not None:
            if isinstance(row, Denied):
                refuse(rpc, tenant, row.reason)
            req = admit(rpc, row, req, bounds)

        async def send(request: Message) -> _Response:
            return await rpc_call_of(self._inner)(rpc, request, resp_type, **options)

        response: _Response
        if bounds is not None and bounds.has_global_ids and options["service"] == "workflow":
            response = await GlobalIds(self._owners, bounds.tenant).send(rpc, req, send)
        else:
            response = await send(req)
        if bounds is not None and isinstance(row, Allowed) and row.response is not None:
            row.response(response, bounds)
        return response

    def _acting_tenant(self, rpc: str, row: Allowed | Denied) -> str | None:
        """Find whose bounds hold: empty for calls that need no tenant, None where none hold."""
        is_required = self._settings.mode == "required"
        needs_tenant = isinstance(row, Denied) or row.needs_tenant
        tenant = acting_tenant(rpc, self._tenant, is_required=is_required and needs_tenant)
        if tenant is None and self._tenant is None:
            if is_required:
                return ""
            if needs_tenant:
                count_untenanted(self._inner.config, rpc)
        return tenant

    def count_refused(self, call: str, error: TenantError) -> None:
        """Count a call that was refused.

        Args:
            call: Its name, one of a bounded number.
            error: Why.
        """
        bound = None if isinstance(self._tenant, AllTenants) else self._tenant
        labels = self._labels.of(bound or current_tenant())
        count_refused(self._inner.config, call, error, labels=labels)

    def _bounds_of(self, tenant: str) -> Bounds:
        bounds = self._bounds.get(tenant)
        if bounds is None:
            if len(self._bounds) >= _REMEMBERED_TENANTS:
                self._bounds.clear()
            bounds = self._bounds[tenant] = Bounds(
                tenant,
                namespace=self._namespace,
                settings=self._settings,
                grants=self._grants,
            )
        return bounds


def plain_tenant(tenant: str | AllTenants | None) -> str | AllTenants | None:
    """The tenant as plain text, because a subclass could compare itself equal to anything.

    Raises:
        InvalidTenantError: The tenant is malformed.
    """
    return check_tenant_id(tenant) if tenant is not None and tenant is not ALL_TENANTS else tenant


def refuse_to_tenants(what: str, *, bound: str | AllTenants | None) -> None:
    """Refuse what serves all tenants.

    Args:
        what: Its name, for the error.
        bound: The tenant that the client is bound to.

    Raises:
        ForbiddenOperationError: The client is bound, or the running code acts for a tenant.
    """
    tenant = current_tenant() if bound is None or isinstance(bound, AllTenants) else bound
    if tenant is not None:
        msg = (
            f"{what} is refused to tenant {tenant!r}: workers and connections serve all"
            " tenants, use a client without tenant, outside of tenant_scope()"
        )
        raise ForbiddenOperationError(msg)


_NO_METADATA: Final[Mapping[str, str | bytes]] = MappingProxyType({})
_UNCONFIGURED: Final = MappingProxyType(vars(ConnectConfig("", identity="nobody")))


class PublicConfig(ConnectConfig):
    """How a connection is configured, without its credentials, and not to be changed."""

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
        refuse_change(name)


def refuse_change(what: str) -> NoReturn:
    """Refuse to change what a connection was configured with.

    Raises:
        ForbiddenOperationError: Always.
    """
    msg = (
        f"{what} cannot be changed on this client: its connection is shared with other tenants'"
        " clients, set it in the configuration"
    )
    raise ForbiddenOperationError(msg)


_logger: Final = logging.getLogger("orkestra.temporal.guard")


def count_refused(
    config: ConnectConfig, call: str, error: TenantError, *, labels: Mapping[str, str]
) -> None:
    """Count a call that was refused.

    Args:
        config: Of the connection, whose runtime has the metrics.
        call: Its name, one of a bounded number.
        error: Why.
        labels: What it is counted under besides.
    """
    own = {"call": call, "kind": type(error).__name__}
    text = "Calls that clients were refused"
    _counter(config, "orkestra_refused_calls", text).add(1, {**own, **labels})


def count_untenanted(config: ConnectConfig, rpc: str) -> None:
    """Show those who move a running system over which calls have no tenant yet."""
    _logger.info("%s without a tenant", rpc)
    text = "Requests that mode optional let through without a tenant"
    _counter(config, "orkestra_untenanted_requests", text).add(1, {"rpc": rpc})


def _counter(config: ConnectConfig, name: str, text: str) -> MetricCounter:
    runtime = config.runtime or Runtime.default()
    return runtime.metric_meter.create_counter(name, text)


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
