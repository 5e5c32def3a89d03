"""A Temporal server, tenants' clients, workers and captured traces for one test.

Fixtures for tests of workflows for tenants. Override `orkestra_config` to change settings.

Activities called directly, as a tenant's.
"""

import asyncio
import importlib.metadata
import inspect
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self, cast

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client, Interceptor, WorkflowHandle
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from orkestra.errors import MissingExtraError
from orkestra.otlp import ReceivedSpan, traces_of
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.temporal.plugin import plugin_of
from orkestra.temporal.worker import create_worker
from orkestra.tenancy import AllTenants, check_tenant_id, tenant_scope
from orkestra.testing.receiver import LangfuseReceiver
from orkestra.testing.replay import Histories, HistoryMode
from orkestra.testing.traces import CapturedTrace

_TEST_SERVER: Final = "temporal-test-server"
_IDENTITY: Final = "orkestra-testing"  # no machine's name, because histories are recorded
_PATIENCE: Final = timedelta(seconds=30)


class OrkestraEnvironment:
    """What a test of workflows for tenants needs, with everything real behind it.

    Made by `local()` or `time_skipping()`.

    Attributes:
        config: What clients and workers are made from.
        receiver: Takes the traces in Langfuse's place.
        time: The SDK's environment of a server that skips time; None where it does not.
    """

    def __init__(
        self,
        config: OrkestraConfig,
        receiver: LangfuseReceiver,
        manager: TemporalConnectionManager,
        time: WorkflowEnvironment | None = None,
    ) -> None:
        self.config: Final = config
        self.receiver: Final = receiver
        self.time: Final = time
        self._manager = manager

    @classmethod
    @asynccontextmanager
    async def local(
        cls, address: str, *, config: OrkestraConfig | None = None
    ) -> AsyncGenerator[Self]:
        """Work on a server that runs, for instance a `DevServer` that many tests share.

        Args:
            address: `host:port` of the server, which has the tenant search attribute.
            config: Settings to test with; its address and Langfuse are replaced.

        Yields:
            The environment.

        Raises:
            ConnectionFailedError: No server is there.
        """
        with _receiver() as receiver:
            settings = _at(address, config or OrkestraConfig(), receiver)
            async with TemporalConnectionManager(settings) as manager:
                yield cls(settings, receiver, manager)

    @classmethod
    @asynccontextmanager
    async def time_skipping(cls, *, config: OrkestraConfig | None = None) -> AsyncGenerator[Self]:
        """Start a server that skips time: a workflow that sleeps for days ends at once.

        It is Temporal's test server, which knows neither lists and counts nor schedules, and
        forgets the tenant of a signal that starts its workflow: test those on a `DevServer`.

        Args:
            config: Settings to test with; its address and Langfuse are replaced.

        Yields:
            The environment; `time` is the SDK's own, with `sleep()` and `get_current_time()`.

        Raises:
            MissingExtraError: The server is not installed.
        """
        started = await WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=str(_test_server())
        )
        async with started as time:
            base = config or OrkestraConfig()
            await time.client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=time.client.namespace,
                    search_attributes={
                        base.tenancy.search_attribute: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
                    },
                )
            )
            with _receiver() as receiver:
                address = time.client.service_client.config.target_host
                settings = _at(address, base, receiver)
                async with TemporalConnectionManager(settings) as manager:
                    yield cls(settings, receiver, manager, time)

    async def client(self, tenant: str | AllTenants) -> Client:
        """A client of a tenant.

        Args:
            tenant: A tenant's ID, or `ALL_TENANTS`.

        Raises:
            InvalidTenantError: It is malformed.
        """
        skipping: Sequence[Interceptor] = ()
        if self.time is not None:
            skipping = self.time.client.config()["interceptors"]
        return await self._manager.get_client(tenant=tenant, interceptors=skipping)

    @asynccontextmanager
    async def worker(
        self,
        *workflows: type,
        activities: Sequence[Callable[..., Any]] = (),
        task_queue: str | None = None,
        **options: Any,
    ) -> AsyncGenerator[str]:
        """Run a worker for the code inside.

        Args:
            workflows: Workflow classes.
            activities: Activity functions or methods.
            task_queue: None means a queue that nobody else uses.
            options: Any other option of `create_worker()`.

        Yields:
            The task queue.

        Raises:
            ConfigurationError: As of `create_worker()`.
            DiscoveryError: As of `create_worker()`.
        """
        queue = task_queue or f"queue-{uuid.uuid4().hex[:12]}"
        worker = await create_worker(
            task_queue=queue,
            workflows=workflows,
            activities=activities,
            manager=self._manager,
            **options,
        )
        async with worker:
            yield queue

    async def trace_of(
        self, handle: WorkflowHandle[Any, Any], *, timeout: timedelta = _PATIENCE
    ) -> CapturedTrace:
        """The trace of a workflow that has ended.

        Args:
            handle: Its handle.
            timeout: How long to wait for the workflow's own span, which comes last.

        Raises:
            TimeoutError: It did not come: the workflow runs still, or was terminated.
        """
        client = await self._manager.get_client()
        await plugin_of(client).flush(timeout)

        def of_workflow(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            return [span for span in spans if _is_of(span, handle)]

        spans = await asyncio.to_thread(
            self.receiver.wait_for, of_workflow, timeout.total_seconds()
        )
        trace_id = of_workflow(spans)[0].trace_id
        return CapturedTrace.of(trace_id, traces_of(spans)[trace_id])


def _is_of(span: ReceivedSpan, handle: WorkflowHandle[Any, Any]) -> bool:
    run = handle.run_id or handle.result_run_id or handle.first_execution_run_id
    return (
        span.name.startswith("workflow:")
        and span.metadata.get("workflow_id") == handle.id
        and (run is None or span.metadata.get("run_id") == run)
    )


def _receiver() -> LangfuseReceiver:
    """With a key of its own: what sends to one key in a process is shared."""
    return LangfuseReceiver(public_key=f"pk-lf-{uuid.uuid4().hex}")


def _at(address: str, config: OrkestraConfig, receiver: LangfuseReceiver) -> OrkestraConfig:
    identity = config.temporal.identity or _IDENTITY
    temporal = config.temporal.model_copy(update={"address": address, "identity": identity})
    langfuse = config.langfuse.model_copy(
        update={
            "enabled": True,
            "base_url": receiver.url,
            "public_key": receiver.settings().public_key,
            "secret_key": receiver.settings().secret_key,
        }
    )
    return config.model_copy(update={"temporal": temporal, "langfuse": langfuse})


def _test_server() -> Path:
    try:
        files = importlib.metadata.files(f"{_TEST_SERVER}-bin") or ()
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError("The time-skipping server", "testing") from error
    found = next(file for file in files if file.name == _TEST_SERVER)
    return Path(str(found.locate())).resolve()


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


class TenantActivityEnvironment(ActivityEnvironment):
    """The SDK's environment for one activity, in which `current_tenant()` is the tenant.

    Example:
        ```python
        assert await TenantActivityEnvironment("acme").run(charge, order) == "paid"
        ```
    """

    def __init__(self, tenant: str, *, client: Client | None = None) -> None:
        """Run for the tenant.

        Args:
            tenant: A well-formed tenant ID.
            client: What `activity.client()` returns: one that is bound to the tenant.

        Raises:
            InvalidTenantError: The tenant is malformed.
        """
        super().__init__(client)
        self._tenant = check_tenant_id(tenant)

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an activity for the tenant.

        Args:
            fn: The activity.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns: for an async activity, something to await.
        """
        if inspect.iscoroutinefunction(fn):

            async def entered(*args: Any, **kwargs: Any) -> Any:
                with tenant_scope(self._tenant):
                    return await fn(*args, **kwargs)

            return super().run(entered, *args, **kwargs)
        with tenant_scope(self._tenant):
            return super().run(fn, *args, **kwargs)
