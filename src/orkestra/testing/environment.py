"""Test environment: a real Temporal server, clients of tenants, workers and captured traces.

The pytest fixtures at the end make environments; override `orkestra_config` to change settings.
`TenantActivityEnvironment` runs a single activity as a tenant, without a server.
"""

import asyncio
import inspect
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Self, cast

import pytest
import pytest_asyncio
from temporalio.client import Client, Interceptor, WorkflowHandle
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from orkestra.devserver.server import program_of_wheel
from orkestra.errors import MissingExtraError
from orkestra.otlp import ReceivedSpan, traces_of
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.temporal.plugin import plugin_of
from orkestra.temporal.search_attributes import add_search_attribute
from orkestra.temporal.worker import create_worker
from orkestra.tenancy import AllTenants, check_tenant_id, tenant_scope
from orkestra.testing.receiver import LangfuseReceiver
from orkestra.testing.replay import Histories, HistoryMode
from orkestra.testing.traces import CapturedTrace

_TEST_SERVER: Final = "temporal-test-server"
_IDENTITY: Final = "orkestra-testing"  # without the machine's name: histories are recorded
_TIMEOUT: Final = timedelta(seconds=30)


class OrkestraEnvironment:
    """Environment of a test, made by `local()` or `time_skipping()`.

    Attributes:
        config: Configuration of the clients and workers.
        receiver: Receiver of the traces, in place of Langfuse.
        time: The SDK's environment if the server skips time, else None.
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
        """Use a running server, for instance a `DevServer` that many tests share.

        Args:
            address: `host:port` of the server. It must have the tenant search attribute.
            config: Settings to test with; the address and Langfuse are replaced.

        Yields:
            The environment.

        Raises:
            ConnectionFailedError: No server answers at the address.
        """
        with _receiver() as receiver:
            settings = _settings(address, config or OrkestraConfig(), receiver)
            async with TemporalConnectionManager(settings) as manager:
                yield cls(settings, receiver, manager)

    @classmethod
    @asynccontextmanager
    async def time_skipping(cls, *, config: OrkestraConfig | None = None) -> AsyncGenerator[Self]:
        """Start a server that skips time: a workflow that sleeps for days ends at once.

        It is Temporal's test server. It supports neither lists and counts nor schedules, and loses
        the tenant of a signal-with-start: test those on a `DevServer`.

        Args:
            config: Settings to test with; the address and Langfuse are replaced.

        Yields:
            The environment; `time` is the SDK's own, with `sleep()` and `get_current_time()`.

        Raises:
            MissingExtraError: The server is not installed.
        """
        # The SDK would download the server.
        program = program_of_wheel(f"{_TEST_SERVER}-bin", _TEST_SERVER)
        if program is None:
            raise MissingExtraError("The server that skips time", "testing")
        started = await WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=str(program)
        )
        async with started as time:
            base = config or OrkestraConfig()
            # Not `ensure`: this server cannot list or count, so nothing can be waited for (T6).
            await add_search_attribute(
                time.client, name=base.tenancy.search_attribute, timeout=_TIMEOUT
            )
            with _receiver() as receiver:
                address = time.client.service_client.config.target_host
                settings = _settings(address, base, receiver)
                async with TemporalConnectionManager(settings) as manager:
                    yield cls(settings, receiver, manager, time)

    async def client(self, tenant: str | AllTenants) -> Client:
        """Make a client.

        Args:
            tenant: The ID of the tenant to bind it to, or `ALL_TENANTS`.

        Raises:
            InvalidTenantError: The ID is malformed.
        """
        skipping: Sequence[Interceptor] = ()
        if self.time is not None:
            # The SDK's own interceptor lets time skip while a result is awaited.
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
        """Run a worker inside the block.

        Args:
            workflows: Workflow classes.
            activities: Activity functions or methods.
            task_queue: Task queue; None makes a new one.
            options: Any other option of `create_worker()`.

        Yields:
            The task queue.

        Raises:
            ConfigurationError: As `create_worker()`.
            DiscoveryError: As `create_worker()`.
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
        self, handle: WorkflowHandle[Any, Any], *, timeout: timedelta = _TIMEOUT
    ) -> CapturedTrace:
        """Return the trace of a workflow that has ended.

        Args:
            handle: Handle of the workflow.
            timeout: Time limit for the workflow's own span, which is sent last.

        Raises:
            TimeoutError: The span was not sent: the workflow is running or was terminated.
        """
        client = await self._manager.get_client()
        # In the process of the worker, so its spans need not wait for the next batch.
        await plugin_of(client).flush(timeout)

        def of_workflow(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            return [span for span in spans if _is_of(span, handle)]

        spans = await asyncio.to_thread(
            self.receiver.wait_for, of_workflow, timeout.total_seconds()
        )
        trace_id = of_workflow(spans)[0].trace_id
        return CapturedTrace.of(trace_id, traces_of(spans)[trace_id])


def _is_of(span: ReceivedSpan, handle: WorkflowHandle[Any, Any]) -> bool:
    # The most specific that the handle has; a handle by ID has none and means any run.
    run = handle.run_id or handle.result_run_id or handle.first_execution_run_id
    return (
        span.name.startswith("workflow:")
        and span.metadata.get("workflow_id") == handle.id
        and (run is None or span.metadata.get("run_id") == run)
    )


def _receiver() -> LangfuseReceiver:
    # A new key: everything in a process that sends to the same key shares one exporter.
    return LangfuseReceiver(public_key=f"pk-lf-{uuid.uuid4().hex}")


def _settings(address: str, config: OrkestraConfig, receiver: LangfuseReceiver) -> OrkestraConfig:
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


class TenantActivityEnvironment(ActivityEnvironment):
    """The SDK's environment for one activity, with a current tenant.

    Example:
        ```python
        assert await TenantActivityEnvironment("acme").run(charge, order) == "paid"
        ```
    """

    def __init__(self, tenant: str, *, client: Client | None = None) -> None:
        """Choose the tenant.

        Args:
            tenant: ID of the tenant.
            client: Client that `activity.client()` returns, bound to the tenant.

        Raises:
            InvalidTenantError: The ID is malformed.
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
            The result; an awaitable if the activity is async.
        """
        if inspect.iscoroutinefunction(fn):
            # Inside the coroutine: a scope around the call would end before it is awaited.
            async def entered(*args: Any, **kwargs: Any) -> Any:
                with tenant_scope(self._tenant):
                    return await fn(*args, **kwargs)

            return super().run(entered, *args, **kwargs)
        with tenant_scope(self._tenant):
            return super().run(fn, *args, **kwargs)


@pytest.fixture(scope="session")
def orkestra_config() -> OrkestraConfig:
    """Settings to test with; environments set the addresses of the server and Langfuse."""
    return OrkestraConfig()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def orkestra_server(
    request: pytest.FixtureRequest, orkestra_config: OrkestraConfig
) -> AsyncGenerator[str]:
    """Address of a real Temporal server, started once a test run."""
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
    """Environment on the server that all tests share."""
    async with OrkestraEnvironment.local(orkestra_server, config=orkestra_config) as made:
        yield made


@pytest_asyncio.fixture
async def time_skipping(orkestra_config: OrkestraConfig) -> AsyncGenerator[OrkestraEnvironment]:
    """Environment on a new server that skips time."""
    async with OrkestraEnvironment.time_skipping(config=orkestra_config) as made:
        yield made


@pytest.fixture
def tenant() -> str:
    """ID of a tenant that no other test uses."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def tenant_client(environment: OrkestraEnvironment, tenant: str) -> Client:
    """Client bound to the tenant."""
    return await environment.client(tenant)


@pytest.fixture
def histories(request: pytest.FixtureRequest, orkestra_config: OrkestraConfig) -> Histories:
    """Recorded histories beside the test module, in `histories/<module>`."""
    mode = cast("HistoryMode", request.config.getoption("--orkestra-histories"))
    directory = request.path.parent / "histories" / request.path.stem
    return Histories(directory, mode=mode, config=orkestra_config)
