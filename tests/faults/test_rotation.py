"""Credentials that change while work is going on: nothing is lost, and the old ones are let go."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from temporalio.client import Client, WorkflowFailureError

from orkestra import (
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    create_worker,
    start_workflow,
)
from tests.faults.certificates import ClientFiles, server_side
from tests.faults.proxy import Proxy
from tests.support.sockets import Sockets
from tests.support.waiting import until
from tests.workflows.gated import Gated, Steps

SOON = timedelta(seconds=0.2)
RUNNING = 200


@pytest.fixture(scope="module")
def servers() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def authorities() -> tuple[trustme.CA, trustme.CA]:
    """Who signs the clients' certificates, before and after."""
    return trustme.CA(), trustme.CA()


@pytest.fixture
async def gateway(dev_server, servers, authorities) -> AsyncIterator[Proxy]:
    tls = server_side(servers.issue_cert("127.0.0.1"), clients=authorities[0])
    async with Proxy(dev_server.address, tls=tls) as proxy:
        yield proxy


@pytest.fixture
def files(tmp_path: Path, authorities) -> ClientFiles:
    return ClientFiles(tmp_path, authorities[0])


@pytest.fixture
async def manager(gateway, files, servers) -> AsyncIterator[TemporalConnectionManager]:
    temporal = TemporalSettings(
        address=gateway.address,
        tls=files.settings(servers),
        credentials_refresh=SOON,
        # Calls on the old connection are given up, and repeated on the new one, only after this.
        call_retry_deadline=timedelta(seconds=6),
    )
    async with TemporalConnectionManager(OrkestraConfig(temporal=temporal)) as made:
        yield made


def accept_only(gateway: Proxy, servers: trustme.CA, clients: trustme.CA) -> None:
    gateway.tls = server_side(servers.issue_cert("127.0.0.1"), clients=clients)


async def test_a_changed_certificate_loses_none_of_200_running_workflows(
    manager, gateway, files, servers, authorities, fresh
):
    steps, tenant, queue = Steps(), fresh.tenant(), fresh.task_queue()
    worker = await create_worker(
        task_queue=queue, workflows=[Gated], activities=[steps.take_step], manager=manager
    )
    client = await manager.get_client(tenant=tenant)
    async with worker:
        handles = await asyncio.gather(
            *(start_workflow(client, Gated.run, n, task_queue=queue) for n in range(RUNNING))
        )
        waiting = [asyncio.create_task(handle.result()) for handle in handles]
        await until(lambda: len(steps.done) == RUNNING)
        before = set(gateway.peers)

        accept_only(gateway, servers, authorities[1])
        files.exchange(authorities[1])
        await until(lambda: manager.statistics.rotations == 1)
        await until(lambda: len(gateway.peers) > 1)
        gateway.cut()  # what is left of the old one; who would connect by it again is refused

        await asyncio.gather(*(handle.signal(Gated.open) for handle in handles))
        results = await asyncio.gather(*waiting)
    assert results == [f"first {n}, second {n}" for n in range(RUNNING)]
    assert len(steps.done) == len(set(steps.done)) == 2 * RUNNING
    assert len(before) == 1
    assert before.isdisjoint(gateway.peers[1:])
    assert len(set(gateway.peers[1:])) == 1


async def test_the_old_socket_of_clients_is_closed_and_handles_go_on(
    manager, gateway, files, servers, authorities, fresh
):
    sockets = Sockets(gateway.address)
    client = await manager.get_client(tenant=fresh.tenant())
    handle = await start_workflow(client, "nobody", task_queue=fresh.task_queue("unserved"))
    for number in range(1, 4):
        authority = trustme.CA()
        accept_only(gateway, servers, authority)
        files.exchange(authority)
        await look(client, lambda expected=number: manager.statistics.rotations == expected)
        await until(lambda: sockets.count == 1)
        assert (await handle.describe()).id == handle.id
    assert len(set(gateway.peers)) == 4
    await handle.terminate()


async def look(client: Client, condition: Callable[[], bool]) -> None:
    """Make calls until the condition holds; it is they that look for changes."""

    async def holds() -> bool:
        await client.service_client.check_health()
        return condition()

    await until(holds)


async def test_a_call_that_waits_ends_on_the_old_socket_which_then_closes(
    manager, gateway, files, authorities, servers, fresh
):
    sockets = Sockets(gateway.address)
    client = await manager.get_client(tenant=fresh.tenant())
    handle = await start_workflow(client, "nobody", task_queue=fresh.task_queue("unserved"))
    waiting = asyncio.create_task(handle.result())
    await until(lambda: manager.statistics.calls_in_flight == 1)
    accept_only(gateway, servers, authorities[1])
    files.exchange(authorities[1])
    await look(client, lambda: manager.statistics.rotations == 1)
    assert sockets.count == 2
    assert not waiting.done()
    await handle.terminate()
    with pytest.raises(WorkflowFailureError):
        await waiting
    gc.collect()
    await until(lambda: sockets.count == 1)


async def test_credentials_that_do_not_work_leave_the_old_ones(
    manager, files, authorities, fresh, caplog
):
    client = await manager.get_client(tenant=fresh.tenant())
    files.spoil()
    await look(client, lambda: manager.statistics.failed_rotations > 2)
    said = [r.getMessage() for r in caplog.records if "cannot be used" in r.getMessage()]
    assert len(said) == 1
    assert "the old ones stay" in said[0]
    assert "tls.client_key does not belong to tls.client_cert" in said[0]
    files.exchange(authorities[0])
    await look(client, lambda: manager.statistics.rotations == 1)


async def test_workers_that_do_not_run_yet_move_too(
    manager, gateway, files, servers, authorities, fresh
):
    steps, queue = Steps(), fresh.task_queue()
    worker = await create_worker(
        task_queue=queue, workflows=[Gated], activities=[steps.take_step], manager=manager
    )
    client = await manager.get_client(tenant=fresh.tenant())
    accept_only(gateway, servers, authorities[1])
    files.exchange(authorities[1])
    await look(client, lambda: manager.statistics.rotations == 1)
    gateway.cut()
    async with worker:
        handle = await start_workflow(client, Gated.run, 1, task_queue=queue)
        await handle.signal(Gated.open)
        assert await handle.result() == "first 1, second 1"
    assert len(set(gateway.peers)) == 2
