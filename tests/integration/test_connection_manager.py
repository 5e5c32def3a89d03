"""The connection manager: one socket for all, and nothing left of it."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, Interceptor, OutboundInterceptor, Plugin
from temporalio.converter import DataConverter
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker import Worker

from orkestra import (
    ALL_TENANTS,
    ConfigurationError,
    ConnectionClosedError,
    ConnectionFailedError,
    ConnectionFailureReason,
    InvalidTenantError,
    OrkestraConfig,
    OrkestraPlugin,
    TemporalConnectionManager,
    WorkersRunningError,
)
from orkestra.config import TemporalSettings
from orkestra.devserver.server import free_port
from tests.support.fake_service import FakeServiceClient
from tests.support.listeners import Listener, proxy_to, silent
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENCE, until


def config_for(address: str, **temporal: Any) -> OrkestraConfig:
    return OrkestraConfig(temporal=TemporalSettings(address=address, **temporal))


@pytest.fixture
async def gateway(dev_server) -> AsyncIterator[Listener]:
    """The server behind a proxy that counts every connection that was ever made."""
    async with proxy_to(dev_server.address) as proxy:
        yield proxy


@pytest.fixture
async def manager(gateway) -> AsyncIterator[TemporalConnectionManager]:
    async with TemporalConnectionManager(config_for(gateway.address)) as made:
        yield made


# Sharing


async def test_a_thousand_first_calls_over_twenty_namespaces_open_one_socket(manager, gateway):
    sockets = Sockets(gateway.address)
    clients = await asyncio.gather(
        *(manager.get_client(namespace=f"n{i % 20}", tenant=f"t{i % 7}") for i in range(1000))
    )
    assert sockets.count == 1
    assert gateway.accepted == 1
    assert {client.namespace for client in clients} == {f"n{i}" for i in range(20)}
    healthy = await asyncio.gather(*(c.service_client.check_health() for c in clients[:50]))
    assert all(healthy)
    assert gateway.accepted == 1


async def test_a_client_is_bound_to_its_tenant_and_ours_is_the_last_plugin(manager):
    class Theirs(PassivePlugin):
        pass

    for tenant in ("acme", None, ALL_TENANTS):
        client = await manager.get_client(tenant=tenant, plugins=[Theirs()])
        *others, ours = client.config()["plugins"]
        assert [type(other) for other in others] == [Theirs]
        assert isinstance(ours, OrkestraPlugin)
        assert ours.tenant == tenant


async def test_options_of_the_manager_and_of_the_client_are_added_up(gateway):
    one, two, converter = Passive(), Passive(), DataConverter()
    manager = TemporalConnectionManager(
        config_for(gateway.address, namespace="second"),
        interceptors=[one],
        data_converter=converter,
    )
    async with manager:
        client = await manager.get_client(interceptors=[two])
        assert client.namespace == "second"
        assert client.config()["interceptors"] == [one, two]
        assert client.data_converter is converter
        other = DataConverter()
        client = await manager.get_client(data_converter=other)
        assert client.data_converter is other


async def test_plugins_of_the_manager_have_a_say_in_connecting(gateway):
    plugin = PassivePlugin()
    async with TemporalConnectionManager(config_for(gateway.address), plugins=[plugin]) as manager:
        await asyncio.gather(*(manager.get_client() for _ in range(10)))
        assert plugin.asked == [gateway.address]


async def test_a_dedicated_client_has_a_connection_of_its_own(manager, gateway):
    sockets = Sockets(gateway.address)
    await manager.get_client()
    dedicated = await asyncio.gather(*(manager.get_client(dedicated=True) for _ in range(2)))
    assert sockets.count == 3
    del dedicated[0]
    await asyncio.sleep(0)  # until now the loop itself refers to it
    gc.collect()
    await until(lambda: sockets.count == 2)
    await manager.close()
    assert await sockets.are_gone()
    with pytest.raises(ConnectionClosedError):
        await dedicated[0].service_client.check_health()


async def test_a_connection_without_its_manager_is_private_and_lives_with_its_clients(gateway):
    sockets = Sockets(gateway.address)
    manager = TemporalConnectionManager(config_for(gateway.address))
    client = await manager.get_client()
    assert not client.service_client.connection.is_private
    del manager
    assert client.service_client.connection.is_private
    gc.collect()
    assert await client.service_client.check_health()
    del client
    gc.collect()
    assert await sockets.are_gone()


# Refusals


async def test_what_is_malformed_is_refused_before_anything_is_opened(manager, gateway):
    with pytest.raises(InvalidTenantError):
        await manager.get_client(tenant="Not A Tenant")
    with pytest.raises(ConfigurationError, match="namespace '' is empty"):
        await manager.get_client(namespace="")
    assert gateway.accepted == 0


async def test_all_who_wait_get_the_error_and_the_next_call_tries_again(dev_server):
    port = free_port()
    deadline = timedelta(seconds=1)
    manager = TemporalConnectionManager(config_for(f"127.0.0.1:{port}", connect_deadline=deadline))
    errors = await asyncio.gather(
        *(manager.get_client() for _ in range(50)), return_exceptions=True
    )
    assert {type(error) for error in errors} == {ConnectionFailedError}
    assert {error.reason for error in errors} == {ConnectionFailureReason.REFUSED}
    late = await asyncio.start_server(relay_to(dev_server.address), "127.0.0.1", port)
    client = await manager.get_client()
    assert await client.service_client.check_health()
    await manager.close()
    late.close()


def relay_to(address: str) -> Any:
    proxy = proxy_to(address)
    return proxy._accept


async def test_each_namespace_is_looked_for_once(gateway):
    looked_for: list[str] = []

    def note(request: Any) -> None:
        looked_for.append(request.namespace)

    class Watcher(PassivePlugin):
        async def connect_service_client(self, config: ConnectConfig, next: Any) -> ServiceClient:
            return FakeServiceClient(await next(config), {"describe_namespace": note})

    config = config_for(gateway.address, namespace="nowhere", verify_namespace=True)
    async with TemporalConnectionManager(config, plugins=[Watcher()]) as manager:
        for _ in range(2):
            names = ["default", "second", "nowhere", "default"] * 5
            results = await asyncio.gather(
                *(manager.get_client(namespace=name) for name in names), return_exceptions=True
            )
            for name, result in zip(names, results, strict=True):
                if name != "nowhere":
                    assert isinstance(result, Client)
                    continue
                assert isinstance(result, ConnectionFailedError)
                assert result.reason is ConnectionFailureReason.NAMESPACE_NOT_FOUND
                assert "'nowhere'" in str(result)
        with pytest.raises(ConnectionFailedError):
            await manager.get_client()
    assert sorted(looked_for) == ["default", "nowhere", "nowhere", "nowhere", "second"]
    assert gateway.accepted == 1


# Giving up


async def test_one_who_gives_up_does_not_stop_the_others(manager, gateway):
    waiting = [asyncio.create_task(manager.get_client()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[:3]:
        task.cancel()
    clients = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(client) for client in clients[:3]] == [asyncio.CancelledError] * 3
    assert [type(client) for client in clients[3:]] == [Client] * 7
    assert gateway.accepted == 1


async def test_when_all_give_up_no_socket_is_left_and_the_manager_still_works(dev_server):
    async with silent() as server:
        sockets = Sockets(server.address)
        manager = TemporalConnectionManager(config_for(server.address))
        for number in (1, 2):
            waiting = asyncio.create_task(manager.get_client())
            await until(lambda expected=number: server.accepted == expected)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await sockets.are_gone()
        await manager.close()


# Closing


async def test_a_closed_manager_opens_nothing_ever_again(gateway):
    async with TemporalConnectionManager(config_for(gateway.address)) as manager:
        pass
    for dedicated in (False, True):
        with pytest.raises(ConnectionClosedError, match=gateway.address):
            await manager.get_client(dedicated=dedicated)
    await manager.close()
    assert gateway.accepted == 0


@pytest.mark.parametrize("dedicated", [False, True])
async def test_closing_while_it_connects_ends_those_who_wait(dedicated):
    async with silent() as server:
        sockets = Sockets(server.address)
        manager = TemporalConnectionManager(config_for(server.address))
        waiting = [asyncio.create_task(manager.get_client(dedicated=dedicated)) for _ in range(10)]
        await until(lambda: server.accepted)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(manager.close() for _ in range(3)))
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {ConnectionClosedError}
        assert await sockets.are_gone()


async def test_closing_at_any_moment_of_connecting_leaves_no_socket(dev_server):
    sockets = Sockets(dev_server.address)
    for steps in range(40):
        manager = TemporalConnectionManager(config_for(dev_server.address))
        waiting = [asyncio.create_task(manager.get_client()) for _ in range(3)]
        await asyncio.sleep(steps * 0.0002)
        await manager.close()
        for end in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(end, Client):
                with pytest.raises(ConnectionClosedError):
                    await end.service_client.check_health()
            else:
                assert isinstance(end, ConnectionClosedError)
    # One that was cancelled in the very moment of success goes with the core's next call.
    async with TemporalConnectionManager(config_for(dev_server.address)) as manager:
        await manager.get_client()
    assert await sockets.are_gone()


async def test_closing_waits_in_nothing_while_calls_wait(manager, gateway, fresh):
    sockets = Sockets(gateway.address)
    client = await manager.get_client(tenant=fresh.tenant())
    handle = await client.start_workflow(
        "nobody", id=fresh.workflow_id(), task_queue=fresh.task_queue("unserved")
    )
    waiting = asyncio.create_task(handle.result())
    await until(lambda: manager.statistics.calls_in_flight == 1)
    await manager.close()
    assert await sockets.are_gone()
    with pytest.raises(ConnectionClosedError):
        await waiting
    with pytest.raises(ConnectionClosedError):
        await handle.describe()


@activity.defn
async def nothing() -> None:
    pass


@pytest.mark.parametrize("dedicated", [False, True])
async def test_closing_under_a_running_worker_names_it_and_changes_nothing(
    manager, fresh, dedicated
):
    shared = await manager.get_client()
    client = await manager.get_client(dedicated=dedicated)
    worker = Worker(client, task_queue=fresh.task_queue(), activities=[nothing])
    async with worker:
        await until(lambda: manager.statistics.workers == 1)
        with pytest.raises(WorkersRunningError, match=fresh.task_queue()):
            await manager.close()
        assert await shared.service_client.check_health()
        assert await client.service_client.check_health()
        assert await manager.get_client()
    await manager.close()
    with pytest.raises(ConnectionClosedError):
        await client.service_client.check_health()


async def test_a_shared_connection_that_was_closed_is_opened_again(manager, gateway):
    client = await manager.get_client()
    await client.service_client.connection.close()
    again = await manager.get_client()
    assert await again.service_client.check_health()
    assert gateway.accepted == 2


async def test_opening_logs_nothing_without_failures(manager, caplog):
    caplog.set_level(logging.INFO)
    await manager.get_client()
    assert not caplog.records


class Passive(Interceptor):
    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return next


class PassivePlugin(Plugin):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def configure_client(self, config: Any) -> Any:
        return config

    async def connect_service_client(self, config: ConnectConfig, next: Any) -> ServiceClient:
        self.asked.append(config.target_host)
        return await next(config)
