"""TypeScript's SDK and Orkestra's workers and clients work together, on the documented code."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from orkestra import OrkestraPlugin
from orkestra.devserver import DevServer
from tests.interop.peer import Peer, install, running_peer
from tests.interop.workflows import SeenByPython, seen_by_python
from tests.support.names import Fresh
from tests.support.waiting import PATIENCE
from tests.workflows.everything import Mailbox

# The fixtures have time-outs of their own: the first run installs packages.
pytestmark = pytest.mark.timeout(180, func_only=True)


@pytest.fixture(scope="session")
def packages() -> Path:
    return install()


@pytest.fixture(scope="module")
async def typescript(
    packages: Path, dev_server: DevServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Peer]:
    async with running_peer(
        tmp_path_factory.mktemp("typescript"),
        packages=packages,
        address=dev_server.address,
        task_queue=Fresh().task_queue("typescript"),
    ) as peer:
        yield peer


@pytest.fixture
async def python_queue(raw_client: Client, fresh: Fresh) -> AsyncIterator[str]:
    queue = fresh.task_queue("python")
    async with Worker(
        client_of(raw_client, None),
        task_queue=queue,
        workflows=[SeenByPython, Mailbox],
        activities=[seen_by_python],
    ):
        yield queue


def client_of(raw: Client, tenant: str | None) -> Client:
    return Client(raw.service_client, plugins=[OrkestraPlugin(tenant=tenant)])


async def failure_of(raw: Client, workflow_id: str) -> str | None:
    with pytest.raises(WorkflowFailureError) as caught:
        await asyncio.wait_for(raw.get_workflow_handle(workflow_id).result(), PATIENCE)
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.non_retryable
    return caught.value.cause.type


async def test_a_typescript_worker_sees_the_tenants_of_a_python_client(
    typescript, python_queue, raw_client, fresh
):
    async def run(tenant: str) -> None:
        seen = await client_of(raw_client, tenant).execute_workflow(
            "SeenByTypescript",
            python_queue,
            id=fresh.workflow_id(),
            task_queue=typescript.task_queue,
        )
        child = {"workflow": tenant, "activity": tenant, "typescript": tenant}
        assert seen == {"workflow": tenant, "activity": tenant, "child": child}

    runs = (run(fresh.tenant(name)) for name in ("acme", "beta"))
    await asyncio.wait_for(asyncio.gather(*runs), PATIENCE)


async def test_a_python_worker_sees_the_tenants_of_a_typescript_client(
    typescript, python_queue, raw_client, fresh
):
    async def run(tenant: str) -> None:
        workflow_id = f"{tenant}:{fresh.workflow_id()}"
        await typescript.call(
            "start",
            type="SeenByPython",
            workflowId=workflow_id,
            taskQueue=python_queue,
            args=[typescript.task_queue],
            tenant=tenant,
        )
        handle = client_of(raw_client, tenant).get_workflow_handle(workflow_id)
        seen = await handle.result()
        assert seen == {"workflow": tenant, "activity": tenant, "typescript": tenant}

    runs = (run(fresh.tenant(name)) for name in ("acme", "beta"))
    await asyncio.wait_for(asyncio.gather(*runs), PATIENCE)


@pytest.mark.parametrize("worker", ["python", "typescript"])
@pytest.mark.parametrize(
    ("header", "kind"),
    [({}, "TenantRequired"), ({"tenant": "beta"}, "TenantMismatch")],
    ids=["no tenant", "another tenant than the ID's"],
)
async def test_either_worker_ends_a_typescript_start_with(
    worker, header, kind, typescript, python_queue, raw_client, fresh
):
    workflow_id = f"acme:{fresh.workflow_id()}"
    start: dict[str, Any] = {
        "python": {"type": "SeenByPython", "taskQueue": python_queue},
        "typescript": {"type": "SeenByTypescript", "taskQueue": typescript.task_queue},
    }[worker]
    await typescript.call("start", workflowId=workflow_id, args=[""], **start, **header)
    assert await failure_of(raw_client, workflow_id) == kind


async def test_a_typescript_signal_without_the_tenant_is_dropped(
    typescript, python_queue, raw_client, fresh
):
    tenant = fresh.tenant()
    mailbox = await client_of(raw_client, tenant).start_workflow(
        Mailbox.run, id=fresh.workflow_id(), task_queue=python_queue
    )
    signal = {"workflowId": mailbox.id, "signal": "note"}
    await typescript.call("signal", **signal, args=["without tenant"])
    await typescript.call("signal", **signal, args=["of another"], tenant=fresh.tenant("beta"))
    await typescript.call("signal", **signal, args=["own"], tenant=tenant)
    await mailbox.signal(Mailbox.finish)
    received = await asyncio.wait_for(mailbox.result(), PATIENCE)
    assert received == [("signal own", tenant)]
