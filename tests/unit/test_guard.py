"""The guard: its table compared with the SDK, the acting tenant, and shared connections."""

import inspect
from typing import Any

import pytest
import temporalio.bridge.services_generated as stubs
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import _BridgeServiceClient
from temporalio.worker import Worker

from orkestra.config import TenancySettings
from orkestra.directory import Placements
from orkestra.errors import (
    ForbiddenOperationError,
    InvalidTenantError,
    TenantMismatchError,
    TenantRequiredError,
)
from orkestra.temporal.guard import GuardedServiceClient, GuardPolicy
from orkestra.temporal.guard.check import Checker, messages_in
from orkestra.temporal.guard.rules import FieldRejectedError
from orkestra.temporal.guard.table import MESSAGES, RPCS, SERVICES, Allowed, Denied, MessageRules
from orkestra.tenancy import ALL_TENANTS, AllTenants, tenant_scope
from tests.support.requests import (
    ALLOWED,
    NAMESPACE,
    TENANT,
    RecordingConnection,
    call,
    filled,
    filled_describe,
    filled_query,
    guarded,
    payload,
)

DENIED = {name: row for name, row in RPCS.items() if isinstance(row, Denied)}
LISTS = ("workflow_executions", "schedules", "activity_executions")
STUBS = {
    cls(None)._service: cls
    for name, cls in vars(stubs).items()
    if name.endswith("Service") and isinstance(cls, type)
}


@pytest.fixture
def connection() -> RecordingConnection:
    return RecordingConnection()


class TestTable:
    def test_the_table_decides_on_exactly_the_services_and_rpcs_of_the_sdk(self):
        assert set(SERVICES) == set(STUBS)
        for service, rows in SERVICES.items():
            of_sdk = {
                name for name, _ in inspect.getmembers(STUBS[service], inspect.iscoroutinefunction)
            }
            if not isinstance(rows, Denied):
                assert set(rows) == of_sdk, f"decide on these RPCs of service {service!r}"

    @pytest.mark.parametrize("rpc", ALLOWED)
    def test_an_allowed_rpc_takes_the_request_type_of_its_stub(self, rpc):
        annotation = inspect.signature(getattr(stubs.WorkflowService, rpc)).parameters["req"]
        assert annotation.annotation.rpartition(".")[2] == ALLOWED[rpc].message.__name__

    def test_every_message_that_an_allowed_request_can_hold_has_rules(self):
        rows = [rows for rows in SERVICES.values() if not isinstance(rows, Denied)]
        waiting = [
            row.message.DESCRIPTOR.full_name
            for service in rows
            for row in service.values()
            if isinstance(row, Allowed)
        ]
        reached: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                assert name in MESSAGES, f"decide on the fields of {name}"
                waiting += [message.full_name for message in messages_in(MESSAGES[name])]
        assert reached == set(MESSAGES)

    @pytest.mark.parametrize("name", MESSAGES)
    def test_every_field_of_a_message_is_listed_once(self, name):
        shape = MESSAGES[name]
        assert sorted(shape.decided) == sorted(f.name for f in shape.message.DESCRIPTOR.fields)

    @pytest.mark.parametrize(
        "name", ["workflow_id", "memo", "links", "eager_worker_deployment_options"]
    )
    def test_a_field_that_no_row_lists_is_refused(self, name):
        checker = Checker()
        checker.prepare(MessageRules(api.StartWorkflowExecutionRequest), {})
        request: Any = api.StartWorkflowExecutionRequest()
        scope = GuardPolicy(settings=TenancySettings()).scope(TENANT, NAMESPACE)
        checker.check(request, scope)
        if name == "workflow_id":
            request.workflow_id = "acme:order-42"
        elif name == "links":
            request.links.add()
        else:
            getattr(request, name).SetInParent()
        with pytest.raises(FieldRejectedError, match="newer than this Orkestra"):
            checker.check(request, scope)

    def test_rpcs_that_need_no_tenant_name_no_execution(self):
        free = {row.message.__name__ for row in ALLOWED.values() if not row.needs_tenant}
        assert free == {"DescribeNamespaceRequest", "GetClusterInfoRequest", "GetSystemInfoRequest"}

    def test_only_lists_counts_and_server_calls_have_no_ownership_pin(self):
        unpinned = {rpc for rpc, row in ALLOWED.items() if row.pin is None}
        assert unpinned == {
            *(f"{verb}_{rows}" for verb in ("list", "count") for rows in LISTS),
            *("describe_namespace", "get_cluster_info", "get_system_info"),
        }

    def test_every_reason_can_end_a_sentence(self):
        reasons = [
            row.reason for row in (*RPCS.values(), *SERVICES.values()) if type(row) is Denied
        ]
        reasons += [reason for shape in MESSAGES.values() for reason in shape.forbidden.values()]
        assert all(reason and not reason.endswith(".") for reason in reasons)


class TestDeniedCalls:
    @pytest.mark.parametrize("rpc", DENIED)
    async def test_denied_calls_are_refused_with_the_reason(self, connection, rpc):
        request = inspect.signature(getattr(stubs.WorkflowService, rpc)).parameters["req"]
        kind = getattr(api, request.annotation.rpartition(".")[2])
        with pytest.raises(ForbiddenOperationError) as caught:
            await call(guarded(connection), rpc, kind())
        assert str(caught.value) == f"{rpc} is refused to tenant 'acme': {DENIED[rpc].reason}"
        assert not connection.sent

    @pytest.mark.parametrize("service", ["operator", "cloud", "test"])
    async def test_every_rpc_of_the_other_services_is_refused(self, connection, service):
        client = guarded(connection)
        stub = getattr(client, f"{service}_service")
        for name, method in inspect.getmembers(stub, inspect.iscoroutinefunction):
            with pytest.raises(ForbiddenOperationError, match=name):
                await method(None)
        assert not connection.sent

    @pytest.mark.parametrize(("service", "rpc"), [("workflow", "become_admin"), ("root", "check")])
    async def test_rpcs_and_services_missing_from_the_table_are_refused(
        self, connection, service, rpc
    ):
        with pytest.raises(ForbiddenOperationError, match="newer than this Orkestra"):
            await guarded(connection)._rpc_call(
                rpc, Payload(), Payload, service=service, retry=True, metadata={}, timeout=None
            )
        assert not connection.sent


class TestActingTenant:
    async def test_a_bound_client_acts_for_its_tenant_inside_and_outside_a_scope(self, connection):
        request = filled(api.DescribeWorkflowExecutionRequest)
        await call(guarded(connection), "describe_workflow_execution", request)
        with tenant_scope(TENANT):
            await call(guarded(connection), "describe_workflow_execution", request)
        assert len(connection.sent) == 2

    @pytest.mark.parametrize("rpc", ["describe_workflow_execution", "get_system_info"])
    async def test_a_bound_client_refuses_code_that_acts_for_another_tenant(self, connection, rpc):
        bound = guarded(connection)
        with tenant_scope("beta"), pytest.raises(TenantMismatchError, match="bound to 'acme'"):
            await call(bound, rpc, filled(ALLOWED[rpc].message))
        assert not connection.sent

    @pytest.mark.parametrize("tenant", ["beta", ALL_TENANTS])
    async def test_code_that_acts_for_a_tenant_cannot_make_a_client_for_others(
        self, connection, tenant
    ):
        with tenant_scope(TENANT), pytest.raises(TenantMismatchError, match="acts for 'acme'"):
            guarded(connection, tenant)

    async def test_an_unbound_client_acts_for_the_scope_of_the_call(self, connection):
        client = guarded(connection, None)
        request = filled(api.DescribeWorkflowExecutionRequest)
        with tenant_scope(TENANT):
            await call(client, "describe_workflow_execution", request)
        with tenant_scope("beta"), pytest.raises(ForbiddenOperationError, match="'beta:'"):
            await call(client, "describe_workflow_execution", request)
        assert len(connection.sent) == 1

    @pytest.mark.parametrize("rpc", ["describe_workflow_execution", "list_namespaces"])
    async def test_an_unbound_client_needs_a_tenant(self, connection, rpc):
        with pytest.raises(TenantRequiredError, match=f"{rpc} needs a tenant"):
            await call(guarded(connection, None), rpc, Payload())
        assert not connection.sent

    async def test_calls_that_name_no_execution_need_no_tenant(self, connection):
        client = guarded(connection, None)
        await call(client, "get_system_info", api.GetSystemInfoRequest())
        await call(client, "describe_namespace", api.DescribeNamespaceRequest(namespace=NAMESPACE))
        await client.check_health()
        assert len(connection.sent) == 3
        with pytest.raises(ForbiddenOperationError, match="a client without tenant: namespace"):
            await call(
                client, "describe_namespace", api.DescribeNamespaceRequest(namespace="second")
            )

    async def test_in_optional_mode_calls_without_a_tenant_are_sent_unchanged(self, connection):
        client = guarded(connection, None, settings=TenancySettings(mode="optional"))
        request = api.ListNamespacesRequest()
        await call(client, "list_namespaces", request)
        assert connection.sent == [request]
        with tenant_scope(TENANT), pytest.raises(ForbiddenOperationError):
            await call(client, "list_namespaces", request)

    async def test_only_calls_that_lack_a_tenant_are_logged(self, connection, caplog):
        caplog.set_level("INFO", "orkestra.temporal.guard")
        optional = TenancySettings(mode="optional")
        client = guarded(connection, None, settings=optional)
        for each in (guarded(connection, ALL_TENANTS, settings=optional), client):
            await call(each, "list_namespaces", api.ListNamespacesRequest())
        await call(client, "get_system_info", api.GetSystemInfoRequest())
        with tenant_scope(TENANT):
            await call(client, "describe_workflow_execution", filled_describe())
        assert len(connection.sent) == 4
        assert [record.getMessage() for record in caplog.records] == [
            "list_namespaces without a tenant"
        ]

    async def test_an_operators_client_may_call_everything_except_inside_a_tenant_scope(
        self, connection
    ):
        client = guarded(connection, ALL_TENANTS)
        request = api.ListNamespacesRequest()
        await call(client, "list_namespaces", request)
        with tenant_scope(TENANT), pytest.raises(ForbiddenOperationError):
            await call(client, "list_namespaces", request)
        assert connection.sent == [request]

    @pytest.mark.parametrize("tenant", ["ALL_TENANTS", "*", "", AllTenants(), "temporal-sys"])
    def test_only_the_all_tenants_object_makes_an_operators_client(self, connection, tenant):
        with pytest.raises(InvalidTenantError):
            guarded(connection, tenant)

    async def test_the_number_of_cached_scopes_is_bounded(self, connection):
        client = guarded(connection, None)
        for number in range(1100):
            with tenant_scope(f"tenant-{number}"), pytest.raises(ForbiddenOperationError):
                await call(client, "describe_workflow_execution", filled_describe())
        assert len(client._policy.scopes) == 1000


class TestBinding:
    @pytest.mark.parametrize("tenant", [None, ALL_TENANTS, TENANT])
    async def test_a_client_can_be_bound_to_a_tenant_on_the_same_connection(
        self, connection, tenant
    ):
        bound = _rebound(guarded(connection, tenant), TENANT)
        await call(bound, "describe_workflow_execution", filled_describe())
        with pytest.raises(ForbiddenOperationError, match="inner"):
            _ = bound.inner
        assert len(connection.sent) == 1

    @pytest.mark.parametrize("tenant", [None, ALL_TENANTS, TENANT])
    def test_a_client_cannot_be_rebound_to_another_tenant(self, connection, tenant):
        client = guarded(connection, tenant)
        with tenant_scope(TENANT), pytest.raises(TenantMismatchError):
            _rebound(client, "beta")
        if tenant == TENANT:
            for other in ("beta", ALL_TENANTS):
                with pytest.raises(TenantMismatchError):
                    _rebound(client, other)


class TestSharedThings:
    def test_metadata_and_api_key_cannot_be_changed(self, connection):
        client = Client(guarded(connection))
        with pytest.raises(ForbiddenOperationError, match="rpc_metadata"):
            client.rpc_metadata = {"authorization": "mine"}
        with pytest.raises(ForbiddenOperationError, match="api_key"):
            client.api_key = "mine"
        assert connection.config.api_key == "secret"

    def test_credentials_cannot_be_read_from_a_client(self, connection):
        client = Client(guarded(connection))
        assert client.api_key is None
        assert dict(client.rpc_metadata) == {}
        assert "secret" not in repr(client.service_client.config)
        assert client.identity == connection.config.identity

    @pytest.mark.parametrize("tenant", [TENANT, None, ALL_TENANTS])
    @pytest.mark.parametrize(
        "key",
        [
            *("authorization", "Authorization", "authorization-extras", "temporal-namespace"),
            *("TEMPORAL-NAMESPACE", "caller-type", "xdc-redirection", "x-forwarded-for"),
        ],
    )
    async def test_a_call_cannot_set_reserved_metadata(self, connection, tenant, key):
        client = guarded(connection, tenant)
        with pytest.raises(ForbiddenOperationError, match="metadata"):
            await call(
                client, "get_system_info", api.GetSystemInfoRequest(), metadata={key: "secret"}
            )
        assert not connection.sent

    async def test_other_metadata_of_a_call_is_sent(self, connection):
        metadata = {"traceparent": "00-1", "x-request-bin": b"1"}
        client = guarded(connection)
        await call(client, "get_system_info", api.GetSystemInfoRequest(), metadata=metadata)
        assert connection.metadata == [metadata]

    async def test_metadata_is_copied_before_it_is_checked(self, connection):
        class Fickle(dict[str, str]):
            def items(self) -> Any:
                return {}.items()

            def __bool__(self) -> bool:
                return False

            def __len__(self) -> int:
                return 0

        class Key(str):
            __slots__ = ()

            def lower(self) -> str:
                return "harmless"

            def startswith(self, *_: Any) -> bool:
                return False

        with pytest.raises(ForbiddenOperationError):
            await call(
                guarded(connection),
                "get_system_info",
                api.GetSystemInfoRequest(),
                metadata=Fickle({Key("authorization"): "mine"}),
            )
        assert not connection.sent

    @pytest.mark.parametrize("name", ["inner", "connection", "worker_service_client"])
    def test_a_tenant_cannot_get_the_unguarded_service_client(self, connection, name):
        with pytest.raises(ForbiddenOperationError, match=f"{name} is refused to tenant 'acme'"):
            getattr(guarded(connection), name)
        for tenant in (None, ALL_TENANTS):
            client = guarded(connection, tenant)
            with tenant_scope(TENANT), pytest.raises(ForbiddenOperationError, match="acme"):
                getattr(client, name)

    def test_an_unbound_client_gives_out_the_unguarded_service_client(self, connection):
        client = guarded(connection, None)
        assert client.inner is connection
        assert client.connection == "the connection"

    async def test_a_worker_of_a_bound_client_is_refused_before_it_polls(self, connection):
        with pytest.raises(ForbiddenOperationError, match="worker_service_client"):
            Worker(Client(guarded(connection)), task_queue="q", activities=[_activity])

    @pytest.mark.parametrize("tenant", [None, ALL_TENANTS])
    async def test_the_worker_client_of_an_unbound_one_is_guarded(self, connection, tenant):
        client = guarded(connection, tenant).worker_service_client
        assert isinstance(client, _BridgeServiceClient)
        with tenant_scope(TENANT), pytest.raises(ForbiddenOperationError):
            await call(client, "list_namespaces", api.ListNamespacesRequest())
        with pytest.raises(ForbiddenOperationError):
            client.update_api_key("mine")
        with pytest.raises(ForbiddenOperationError):
            client.update_rpc_metadata({})
        with tenant_scope(TENANT):
            await call(client.worker_service_client, "query_workflow", filled_query())
        assert len(connection.sent) == 1


def _activity() -> None: ...


def _rebound(client: GuardedServiceClient, tenant: str | AllTenants) -> GuardedServiceClient:
    return client.rebound(tenant=tenant, namespace=NAMESPACE, placements=Placements())


class TestResponses:
    def row(self, workflow_id: str, tenant: str | None = TENANT) -> WorkflowExecutionInfo:
        info = WorkflowExecutionInfo(execution=WorkflowExecution(workflow_id=workflow_id))
        if tenant is not None:
            info.search_attributes.indexed_fields["tenantId"].CopyFrom(payload(tenant))
        return info

    async def test_rows_of_other_tenants_are_removed_and_logged(self, connection, caplog):
        connection.response = api.ListWorkflowExecutionsResponse(
            executions=[
                self.row("beta:1"),
                self.row("acme:1"),
                self.row("Acme:2"),
                self.row("acme:3", "beta"),
                self.row("acme:4", None),
                self.row("acme:5"),
                self.row("unscoped"),
            ]
        )
        request = api.ListWorkflowExecutionsRequest(namespace=NAMESPACE)
        response = await call(guarded(connection), "list_workflow_executions", request)
        assert [r.execution.workflow_id for r in response.executions] == ["acme:1", "acme:5"]
        assert "5 row(s)" in caplog.text

    @pytest.mark.parametrize(
        ("rpc", "response"),
        [
            ("list_schedules", api.ListSchedulesResponse()),
            ("list_activity_executions", api.ListActivityExecutionsResponse()),
        ],
    )
    async def test_rows_of_other_tenants_are_removed_from_other_lists(
        self, connection, rpc, response
    ):
        rows = response.schedules if rpc == "list_schedules" else response.executions
        name = "schedule_id" if rpc == "list_schedules" else "activity_id"
        for owner in ("acme", "beta"):
            row = rows.add(**{name: f"{owner}:1"})
            row.search_attributes.indexed_fields["tenantId"].CopyFrom(payload(owner))
        connection.response = response
        found = await call(guarded(connection), rpc, ALLOWED[rpc].message(namespace=NAMESPACE))
        rows = found.schedules if rpc == "list_schedules" else found.executions
        assert [getattr(row, name) for row in rows] == ["acme:1"]

    async def test_a_described_namespace_hides_what_is_the_operators(self, connection):
        response = api.DescribeNamespaceResponse()
        response.namespace_info.name = NAMESPACE
        response.namespace_info.owner_email = "owner@example.org"
        response.namespace_info.data["secret"] = "x"
        response.namespace_info.capabilities.async_update = True
        response.config.custom_search_attribute_aliases["Keyword01"] = "beta"
        response.config.workflow_execution_retention_ttl.seconds = 60
        connection.response = response
        found = await call(
            guarded(connection),
            "describe_namespace",
            api.DescribeNamespaceRequest(namespace=NAMESPACE),
        )
        assert found.namespace_info.name == NAMESPACE
        assert found.namespace_info.capabilities.async_update
        assert found.config.workflow_execution_retention_ttl.seconds == 60
        assert not found.namespace_info.owner_email
        assert not found.namespace_info.data
        assert not found.config.custom_search_attribute_aliases
