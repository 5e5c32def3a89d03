"""Fixtures for tests of workflows for tenants. Override `orkestra_config` to change settings."""

import uuid
from collections.abc import AsyncGenerator
from typing import cast

import pytest
import pytest_asyncio
from temporalio.client import Client

from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from orkestra.testing.environment import OrkestraEnvironment
from orkestra.testing.histories import Histories, HistoryMode


@pytest.fixture(scope="session")
def orkestra_config() -> OrkestraConfig:
    """Settings to test with; where the server and Langfuse are is set by the environment."""
    return OrkestraConfig()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def orkestra_server(
    request: pytest.FixtureRequest, orkestra_config: OrkestraConfig
) -> AsyncGenerator[str]:
    """Address of a real Temporal server, started once a run."""
    named = cast("str | None", request.config.getoption("--orkestra-server"))
    if named is not None:
        yield named
        return
    attribute = orkestra_config.tenancy.search_attribute
    async with DevServer(search_attribute=attribute) as server:
        yield server.address


@pytest_asyncio.fixture
async def environment(
    orkestra_server: str, orkestra_config: OrkestraConfig
) -> AsyncGenerator[OrkestraEnvironment]:
    """Clients, workers and captured traces on the server that all tests share."""
    async with OrkestraEnvironment.local(orkestra_server, config=orkestra_config) as made:
        yield made


@pytest_asyncio.fixture
async def time_skipping(orkestra_config: OrkestraConfig) -> AsyncGenerator[OrkestraEnvironment]:
    """The same on a server of this test's own that skips time."""
    async with OrkestraEnvironment.time_skipping(config=orkestra_config) as made:
        yield made


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test has."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def tenant_client(environment: OrkestraEnvironment, tenant: str) -> Client:
    """A client of the tenant."""
    return await environment.client(tenant)


@pytest.fixture
def histories(request: pytest.FixtureRequest, orkestra_config: OrkestraConfig) -> Histories:
    """The recorded histories beside the test module, in `histories/<module>`."""
    mode = cast("HistoryMode", request.config.getoption("--orkestra-histories"))
    directory = request.path.parent / "histories" / request.path.stem
    return Histories(directory, mode=mode, config=orkestra_config)
