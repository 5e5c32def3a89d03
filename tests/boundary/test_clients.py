"""A hostile tenant's clients: without interceptors, of others, with other settings and codecs."""

import pytest
from temporalio.client import (
    Client,
    WorkflowUpdateStage,
)
from temporalio.service import RPCError

from orkestra import (
    ALL_TENANTS,
    ForbiddenOperationError,
    TenantMismatchError,
    TenantRequiredError,
    tenant_scope,
)
from orkestra.errors import TenantError
from tests.support.guard_attack import refused
from tests.workflows.everything import Mailbox


async def test_b07_a_client_without_interceptors_is_refused_with_a_fix(attack):
    bare = Client(**{**attack.acme.config(), "plugins": [], "interceptors": []})
    start = bare.start_workflow(
        Mailbox.run, id=f"{attack.desk.acme}:x", task_queue=attack.desk.queue
    )
    await refused(start, match=r"search_attributes\.indexed_fields\['tenantId'\].*Client's own")
    await refused(bare.get_workflow_handle("x").describe(), match="scope_id")
    handle = bare.get_workflow_handle(f"{attack.desk.acme}:x")
    await refused(handle.signal("finish"), match=r"header\.fields\['tenantId'\]")
    await refused(handle.query("count"), match=r"query\.header")
    await refused(handle.execute_update("add", "x"), match=r"request\.input\.header")


async def test_a_raw_request_with_the_tenant_is_sent(attack):
    started = await attack.service.start_workflow_execution(attack.start())
    handle = attack.acme.get_workflow_handle("raw", run_id=started.run_id)
    await handle.signal("finish")
    assert await handle.result() == []


async def test_b07_another_tenants_client_or_scope_is_refused(attack):
    with tenant_scope(attack.desk.beta), pytest.raises(TenantMismatchError):
        await attack.acme.get_workflow_handle("target").describe()
    with pytest.raises(TenantRequiredError):
        await attack.desk.unbound.get_workflow_handle(attack.target.id).describe()
    for name in ("ALL_TENANTS", "*"):
        with pytest.raises(TenantError):
            attack.desk.client(name)


async def test_polls_without_interceptors_find_no_other_tenants_work(attack):
    secret = await attack.desk.mailbox(attack.desk.beta, "secret")
    update = await secret.start_update(
        Mailbox.add_checked, "x", wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="secret"
    )
    assert await update.result() == attack.desk.beta
    for name in (secret.id, attack.desk.fresh.workflow_id("secret")):
        polled = attack.bare.get_workflow_handle(name).get_update_handle("secret")
        with pytest.raises(RPCError, match="not found"):
            await polled.result()
    opened = await attack.desk.open_activity(attack.desk.beta)
    with pytest.raises(RPCError, match="not found"):
        await attack.bare.get_activity_handle(opened.id).result()
    await opened.terminate()
    await secret.terminate()


async def test_b18_shared_metadata_and_api_key_cannot_be_changed(attack):
    with pytest.raises(ForbiddenOperationError):
        attack.acme.rpc_metadata = {"temporal-namespace": "second"}
    with pytest.raises(ForbiddenOperationError):
        attack.acme.api_key = "mine"
    assert attack.desk.raw.rpc_metadata == {}
    for key in ("authorization", "temporal-namespace", "Temporal-Namespace"):
        await refused(attack.acme.count_workflows(rpc_metadata={key: "second"}), match="metadata")


async def test_b07_an_operators_client_is_limited_inside_a_tenant_scope(attack):
    operator = attack.desk.client(ALL_TENANTS)
    assert (await operator.get_workflow_handle(attack.target.id).describe()).id == attack.target.id
    with tenant_scope(attack.desk.acme):
        await refused(
            Client(operator.service_client).get_workflow_handle(attack.target.id).terminate()
        )
