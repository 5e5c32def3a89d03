"""API keys that change while work is going on: no call and no task fails for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra import (
    ConnectionFailedError,
    ConnectionFailureReason,
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    TlsSettings,
    create_worker,
    start_workflow,
)
from orkestra.temporal.connection import open_connection
from tests.faults.keyed import KeyGate
from tests.support.names import Fresh
from tests.support.waiting import until
from tests.workflows.gated import Gated, Steps

SOON = timedelta(seconds=0.2)
HOURLY = timedelta(hours=1)


@pytest.fixture
async def gate(dev_server) -> AsyncIterator[KeyGate]:
    async with KeyGate(dev_server.address) as made:
        yield made


def manager_for(gate: KeyGate, **temporal: Any) -> TemporalConnectionManager:
    settings = TemporalSettings(address=gate.address, tls=TlsSettings(disabled=True), **temporal)
    return TemporalConnectionManager(OrkestraConfig(temporal=settings))


async def test_a_key_in_a_file_changes_under_workers_that_make_no_calls(
    gate, tmp_path: Path, fresh
):
    file = tmp_path / "key"
    file.write_text("first\n")
    steps, queue = Steps(), fresh.task_queue()
    async with manager_for(gate, api_key_file=file, credentials_refresh=SOON) as manager:
        worker = await create_worker(
            task_queue=queue, workflows=[Gated], activities=[steps.take_step], manager=manager
        )
        client = await manager.get_client(tenant=fresh.tenant())
        async with worker:
            handle = await start_workflow(client, Gated.run, 1, task_queue=queue)
            await until(lambda: len(steps.done) == 1)
            file.write_text("second\n")
            await until(lambda: manager.statistics.rotations == 1)
            gate.revoke(0)
            await handle.signal(Gated.open)
            assert await handle.result() == "first 1, second 1"
    assert len(gate.keys) == 2
    assert gate.accepted == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_refused_key_is_read_again_and_the_call_succeeds(gate, fresh, is_async):
    asked: list[str] = []

    def give() -> str:
        asked.append(f"key-{len(asked)}")
        return asked[-1]

    async def give_later() -> str:
        await asyncio.sleep(0.01)
        return give()

    source = give_later if is_async else give
    async with manager_for(gate, api_key=source, credentials_refresh=HOURLY) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        assert asked == ["key-0"]
        gate.revoke(0)
        ids = [f"{n}-{fresh.suffix}" for n in range(20)]
        handles = await asyncio.gather(
            *(
                start_workflow(client, "nobody", workflow_id=i, task_queue=fresh.task_queue("idle"))
                for i in ids
            )
        )
        assert len(handles) == 20
        assert asked == ["key-0", "key-1"]
        assert manager.statistics.rotations == 1


async def test_a_call_of_another_event_loop_takes_up_a_changed_key_as_well(
    gate, tmp_path: Path, fresh
):
    file = tmp_path / "key"
    file.write_text("first")
    async with manager_for(gate, api_key_file=file, credentials_refresh=HOURLY) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        file.write_text("second")
        gate.revoke(0)
        for _ in range(2):
            assert await asyncio.to_thread(asyncio.run, start_one(client, fresh))
        assert manager.statistics.rotations == 1
        assert await start_one(client, fresh)


async def start_one(client: Client, fresh: Fresh) -> str:
    return (await start_workflow(client, "nobody", task_queue=fresh.task_queue("idle"))).id


async def test_a_refusal_that_a_new_key_does_not_solve_is_raised(gate, fresh):
    async with manager_for(gate, api_key=SecretStr("only")) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        gate.revoke(-1)
        with pytest.raises(RPCError) as caught:
            await start_workflow(client, "nobody", task_queue="idle")
        assert caught.value.status is RPCStatusCode.UNAUTHENTICATED
    async with manager_for(gate, api_key=lambda: "the same") as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        gate.revoke(-1)
        with pytest.raises(RPCError):
            await start_workflow(client, "nobody", task_queue="idle")
        assert manager.statistics.rotations == 0


async def test_a_source_that_fails_leaves_the_old_key(gate, tmp_path: Path, fresh, caplog):
    file = tmp_path / "key"
    file.write_text("s3cret")
    async with manager_for(gate, api_key_file=file, credentials_refresh=SOON) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        file.write_text("s3cret\ns3cret")
        await look(client, lambda: manager.statistics.failed_rotations > 0)
        file.unlink()
        await look(client, lambda: "cannot be read" in caplog.text)
        assert "the old ones stay" in caplog.text
        assert "s3cret" not in caplog.text
    assert len(gate.keys) == 1


async def look(client: Any, condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        await client.service_client.check_health()
        return condition()

    await until(holds)


def no_key() -> str:
    msg = "the vault is sealed"
    raise OSError(msg)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"api_key_file": Path("no/such/file")}, "'no/such/file' cannot be read: No such file"),
        ({"api_key": no_key}, "the function temporal.api_key raised OSError"),
        ({"api_key": lambda: ""}, "it must be one line of printable ASCII"),
        ({"api_key": lambda: None}, "it must be one line of printable ASCII"),
    ],
)
async def test_a_connection_without_the_key_it_should_have_is_not_tried(source, message):
    with pytest.raises(ConnectionFailedError) as caught:
        await open_connection(TemporalSettings(address="127.0.0.1:1", **source))
    assert caught.value.reason is ConnectionFailureReason.BAD_API_KEY
    assert message in str(caught.value)
    assert caught.value.attempts == 0
