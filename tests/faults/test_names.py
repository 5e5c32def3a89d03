"""Names that move, and proxies on the way."""

import asyncio
import base64
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orkestra import ConnectionFailedError, ConnectionFailureReason, TemporalSettings
from orkestra.config import ProxySettings
from orkestra.devserver.server import free_port
from orkestra.temporal.connection import open_connection
from tests.faults.proxy import ConnectProxy, Proxy
from tests.support.waiting import PATIENCE

Reason = ConnectionFailureReason

ROOT = Path(__file__).parents[2]
SECRET = "s3cret"
NAME = "temporal.office:7233"
OWN_HOSTS = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def may_have_hosts_of_its_own() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        [*OWN_HOSTS, "mount --bind /dev/null /etc/hosts"], check=False, capture_output=True
    )
    return tried.returncode == 0


@pytest.mark.skipif(not may_have_hosts_of_its_own(), reason="needs namespaces of Linux")
@pytest.mark.parametrize("refresh", [0, 1])
async def test_a_name_is_looked_up_again_for_a_new_connection_or_when_it_is_time(
    dev_server, tmp_path: Path, refresh
):
    hosts = tmp_path / "hosts"
    hosts.touch()
    program = f'mount --bind "$1" /etc/hosts && exec {sys.executable} -m tests.programs.moving "$@"'
    process = await asyncio.create_subprocess_exec(
        *OWN_HOSTS,
        program,
        "sh",
        str(hosts),
        dev_server.address,
        str(refresh),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert said.decode().splitlines() == ["before 1 0", "after 0 1"]


@pytest.fixture
async def office(dev_server) -> AsyncIterator[ConnectProxy]:
    login = "Basic " + base64.b64encode(b"me:s3cret").decode()
    async with ConnectProxy({NAME: dev_server.address}, login=login) as made:
        yield made


def through(proxy: str, *, password: str = SECRET, **temporal: Any) -> TemporalSettings:
    way = ProxySettings(address=proxy, user="me", password=SecretStr(password))
    return TemporalSettings(address=NAME, proxy=way, **temporal)


async def test_a_proxy_leads_to_a_name_that_only_it_knows_and_that_moves(dev_server, office):
    async with Proxy(dev_server.address) as elsewhere:
        connection = await open_connection(through(office.address))
        health = connection.service_client.check_health
        assert await health()
        office.names[NAME] = elsewhere.address
        await office.end_connections()
        assert await health(retry=True)
        assert elsewhere.open == 1
        assert set(office.asked) == {NAME}
        await connection.close()


@pytest.mark.parametrize(
    ("password", "names", "reason", "words"),
    [
        ("wrong", {NAME: "127.0.0.1:1"}, Reason.UNAUTHENTICATED, "rejects the user or password"),
        ("s3cret", {}, Reason.UNAVAILABLE, "the proxy cannot reach this address"),
    ],
)
async def test_a_refusal_by_the_proxy_is_distinguished_from_one_by_the_server(
    office, password, names, reason, words
):
    office.names = names
    settings = through(office.address, password=password, connect_deadline=timedelta(seconds=2))
    with pytest.raises(ConnectionFailedError, match=words) as caught:
        await open_connection(settings)
    assert caught.value.reason is reason
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", Reason.REFUSED), ("no-such-host.invalid", Reason.UNKNOWN_HOST)],
)
async def test_a_proxy_that_is_not_there_is_named_as_the_one(host, reason):
    settings = through(f"{host}:{free_port()}", connect_deadline=timedelta(seconds=2))
    with pytest.raises(ConnectionFailedError, match="proxy") as caught:
        await open_connection(settings)
    assert caught.value.reason is reason
