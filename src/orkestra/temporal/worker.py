"""Workers from the configuration."""

from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any

from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.worker import Interceptor, Worker

from orkestra.config import OrkestraConfig
from orkestra.errors import ConfigurationError, DiscoveryError
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.discovery import check_unique_names, discover
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.temporal.plugin import plugin_of, with_plugin
from orkestra.temporal.telemetry import metered_runtime
from orkestra.temporal.threads import ActivityThreads
from orkestra.temporal.unconfined import unconfined_service
from orkestra.temporal.worker_options import activity_threads, sdk_options


async def create_worker(
    config: OrkestraConfig | None = None,
    *,
    task_queue: str,
    workflows: Sequence[type] = (),
    workflows_path: str | ModuleType | None = None,
    activities: Sequence[Callable[..., Any]] = (),
    interceptors: Sequence[Interceptor] = (),
    namespace: str | None = None,
    tenants: Collection[str] | None = None,
    manager: TemporalConnectionManager | None = None,
    data_converter: DataConverter = DataConverter.default,
    **options: Any,
) -> Worker:
    """Connect and make the SDK's own worker, ready for `run_worker()`.

    Activities that are not async run in a pool of threads, `worker.activity_threads` of them.
    Workflow code is imported and validated here, not when the first task arrives.

    Args:
        config: The configuration; None loads it as `OrkestraConfig.load()` does. With a manager,
            the manager's is used.
        task_queue: Queue to poll.
        workflows: Workflow classes.
        workflows_path: A module or package, by dotted name or itself, in which every
            `@workflow.defn` and `@activity.defn` is found; added to those given.
        activities: Activity functions or methods.
        interceptors: More worker interceptors; Orkestra's own come first.
        namespace: None means `temporal.namespace`.
        tenants: Serve these tenants only, on a queue or in a namespace that the directory gives
            to them alone; None serves all. The work of others is never run here, but keeps failing
            its tasks until it gets to a worker that serves them.
        manager: Shares its connection; without one the worker has a connection of its own, which
            `run_worker()` closes.
        data_converter: Converter for arguments and results.
        options: Any other option of `temporalio.worker.Worker`; it wins over the configuration.

    Returns:
        The worker, which does not poll yet.

    Raises:
        ConfigurationError: The task queue is empty, nothing is registered, an option is wrong, or
            `tenants` are given for a queue that others may use.
        DiscoveryError: Workflow code cannot be imported or does not pass the sandbox.
        ConnectionFailedError: The service could not be reached.

    Example:
        ```python
        worker = await create_worker(config, task_queue="orders", workflows_path="app.orders")
        raise SystemExit(await run_worker(worker))
        ```
    """
    if not task_queue:
        msg = f"task_queue {task_queue!r} is empty: name the queue to poll"
        raise ConfigurationError(msg)
    if workflows_path is not None:
        found = discover(workflows_path)
        workflows = list(dict.fromkeys((*workflows, *found.workflows)))
        activities = list(dict.fromkeys((*activities, *found.activities)))
    if not workflows and not activities and not options.get("nexus_service_handlers"):
        msg = "the worker has nothing to do: give workflows, activities or workflows_path"
        raise ConfigurationError(msg)
    check_unique_names(workflows, activities)
    if manager is None:
        manager = _own_manager(config or OrkestraConfig.load())
    client = await manager.get_client(namespace=namespace, data_converter=data_converter)
    if tenants is not None:
        client = await _limited(client, tenants, task_queue)
    settings = sdk_options(manager.config.worker, options)
    if "activity_executor" not in settings:
        threads = activity_threads(manager.config.worker, settings)
        settings["activity_executor"] = ActivityThreads(threads)
    return _make(
        client,
        task_queue=task_queue,
        workflows=workflows,
        activities=activities,
        interceptors=interceptors,
        **settings,
    )


async def create_workers(
    config: OrkestraConfig | None = None,
    *,
    task_queue: str,
    manager: TemporalConnectionManager | None = None,
    **options: Any,
) -> list[Worker]:
    """Make a worker for every place where the directory sends a queue's work.

    That is the shared queue, and the queues and namespaces of tenants that have their own; the
    workers of those serve nobody else. A tenant that is given a place later is served there by
    workers that are made later.

    Args:
        config: The configuration; None loads it as `OrkestraConfig.load()` does. With a manager,
            the manager's is used.
        task_queue: The queue as the code has it, that is the shared one.
        manager: Shares its connection and knows the directory; without one the workers have a
            connection of their own, which `run_worker()` closes.
        options: Every other option of `create_worker()`, for each of the workers.

    Returns:
        The workers, the shared queue's first, ready for `run_worker()`.

    Raises:
        ConfigurationError: As of `create_worker()`.
        DirectoryUnavailableError: The directory gave no answer.

    Example:
        ```python
        workers = await create_workers(config, task_queue="orders", workflows_path="app.orders")
        raise SystemExit(await run_worker(*workers))
        ```
    """
    if manager is None:
        manager = _own_manager(config or OrkestraConfig.load())
    namespace = manager.config.temporal.namespace
    places = await manager.placements.served(task_queue, namespace=namespace)
    return [
        await create_worker(
            task_queue=place.task_queue,
            namespace=place.namespace,
            tenants=place.owners or None,
            manager=manager,
            **options,
        )
        for place in places
    ]


def _own_manager(config: OrkestraConfig) -> TemporalConnectionManager:
    """A connection of the worker's own, metered where its metrics are asked for."""
    runtime = metered_runtime() if config.worker.probes_address is not None else None
    return TemporalConnectionManager(config, runtime=runtime)


async def _limited(client: Client, tenants: Collection[str], task_queue: str) -> Client:
    plugin, namespace = plugin_of(client), client.namespace
    limited = plugin.limited_to(tenants)
    await plugin.placements.require_exclusive(tenants, namespace=namespace, task_queue=task_queue)
    return with_plugin(client, limited, namespace=namespace)


def _make(client: Client, *, workflows: Sequence[type], **options: Any) -> Worker:
    try:
        worker = Worker(client, workflows=workflows, **options)
    except RuntimeError as error:
        if error.__cause__ is None:
            msg = f"the worker for task queue {options['task_queue']!r} was refused: {error}"
            raise ConfigurationError(msg) from error
        raise DiscoveryError(_explain(workflows, error)) from error
    except (ValueError, TypeError) as error:
        msg = f"the worker for task queue {options['task_queue']!r} cannot be made: {error}"
        raise ConfigurationError(msg) from error
    service = unconfined_service(worker.client)
    if isinstance(service, ManagedServiceClient):
        service.connection.made(worker)
    return worker


def _explain(workflows: Sequence[type], error: BaseException) -> str:
    """One line: what failed, the modules that led there, and how to mend it."""
    modules = {workflow.__module__ for workflow in workflows}
    root: BaseException = error
    chain: list[str] = []
    while root.__cause__ is not None:
        root = root.__cause__
    traceback = root.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "")
        is_machinery = name.startswith(("importlib", "temporalio.", "_frozen")) or not name
        if not is_machinery and (not chain or chain[-1] != name):
            chain.append(name)
        traceback = traceback.tb_next
    mend = "keep clocks, randomness and I/O out of it, or add it to worker.sandbox.passthrough"
    if "__main__" in modules or "__temporal_main__" in chain:
        mend = "move the workflow to its own module, or guard the script by __name__ == '__main__'"
    path = " -> ".join(chain) or ", ".join(sorted(modules))
    return f"{error}: {type(root).__name__}: {root} (imported by {path}): {mend}"
