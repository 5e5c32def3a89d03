"""`create_worker()`: the SDK's own worker from the configuration and from discovered definitions.

Workflow code is imported and validated in the sandbox here, so that mistakes in it show before the
first task arrives, with the chain of imports that led to them.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.converter import DataConverter
from temporalio.worker import (
    Interceptor,
    PollerBehavior,
    PollerBehaviorAutoscaling,
    PollerBehaviorSimpleMaximum,
    ResourceBasedSlotConfig,
    Worker,
    WorkerDeploymentConfig,
    WorkerTuner,
)

from orkestra.config import (
    DeploymentSettings,
    OrkestraConfig,
    PollerSettings,
    TunerSettings,
    WorkerSettings,
)
from orkestra.errors import ConfigurationError, DiscoveryError
from orkestra.temporal._sdk import ACTIVITY_DEFINITION, WORKFLOW_DEFINITION
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.guard import unguarded_service
from orkestra.temporal.manager import TemporalConnectionManager, metered_runtime
from orkestra.temporal.plugin import ActivityThreadPool, plugin_of, with_plugin


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

    Activities that are not async run in `worker.activity_threads` threads. Workflow code is
    imported and validated here, not when the first task arrives.

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
            to them alone; None serves all. Work of others never runs here; its tasks fail until a
            worker that serves them gets them.
        manager: Shares its connection; without one the worker has a connection of its own, which
            `run_worker()` closes.
        data_converter: Converter for arguments and results.
        options: Any other option of `temporalio.worker.Worker`; it wins over the configuration.

    Returns:
        The worker; it does not poll yet.

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
        msg = "the worker has nothing to do: pass workflows, activities or workflows_path"
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
        settings["activity_executor"] = ActivityThreadPool(threads)
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
    """Make a worker for every task queue and namespace to which the directory sends work.

    These are the shared queue, and the queues and namespaces of tenants that have their own; the
    workers there serve no other tenants. For a tenant that moves later, make workers again.

    Args:
        config: The configuration; None loads it as `OrkestraConfig.load()` does. With a manager,
            the manager's is used.
        task_queue: The shared queue, which the code names.
        manager: Shares its connection and its directory; without one the workers have a connection
            of their own, which `run_worker()` closes.
        options: Every other option of `create_worker()`, for each worker.

    Returns:
        The workers, that of the shared queue first, ready for `run_worker()`.

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
    """Make a manager for this worker, with readable metrics where the probes need them."""
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
            msg = f"the worker for task queue {options['task_queue']!r} was rejected: {error}"
            raise ConfigurationError(msg) from error
        raise DiscoveryError(_explain(workflows, error)) from error
    except (ValueError, TypeError) as error:
        msg = f"the worker for task queue {options['task_queue']!r} cannot be made: {error}"
        raise ConfigurationError(msg) from error
    service = unguarded_service(worker.client)
    if isinstance(service, ManagedServiceClient):
        service.connection.add_worker(worker)
    return worker


def _explain(workflows: Sequence[type], error: BaseException) -> str:
    """Explain in one line what failed, which modules led there, and how to fix it."""
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
    remedy = "keep clocks, randomness and I/O out of it, or add it to worker.sandbox.passthrough"
    if "__main__" in modules or "__temporal_main__" in chain:
        remedy = "move the workflow to its own module, or guard it by __name__ == '__main__'"
    path = " -> ".join(chain) or ", ".join(sorted(modules))
    return f"{error}: {type(root).__name__}: {root} (imported by {path}): {remedy}"


_SAME_NAMES: Final = (
    "graceful_shutdown_timeout",
    "max_concurrent_activities",
    "max_concurrent_workflow_tasks",
    "max_concurrent_local_activities",
    "max_concurrent_nexus_tasks",
    "max_cached_workflows",
    "nonsticky_to_sticky_poll_ratio",
    "sticky_queue_schedule_to_start_timeout",
    "max_activities_per_second",
    "max_task_queue_activities_per_second",
    "max_heartbeat_throttle_interval",
    "default_heartbeat_throttle_interval",
)
_POLLERS: Final = (
    "workflow_task_poller_behavior",
    "activity_task_poller_behavior",
    "nexus_task_poller_behavior",
)
_DEFAULT_POLLERS: Final = 5
_DEFAULT_CONCURRENT_ACTIVITIES: Final = 100


def sdk_options(settings: WorkerSettings, given: dict[str, Any]) -> dict[str, Any]:
    """Make the options of `temporalio.worker.Worker`.

    Args:
        settings: The configuration.
        given: Options of the SDK that override the configuration; a tuner also overrides the
            configured numbers of slots, and numbers a configured tuner.
    """
    options: dict[str, Any] = {name: getattr(settings, name) for name in _SAME_NAMES}
    options |= {name: _pollers(getattr(settings, name)) for name in _POLLERS}
    options["tuner"] = None if settings.tuner is None else _tuner(settings.tuner)
    if settings.deployment_config is not None:
        options["deployment_config"] = _deployment(settings.deployment_config)
    slots = [name for name in options if name.startswith("max_concurrent_")]
    if given.get("tuner") is not None:
        options |= dict.fromkeys(slots)
    elif any(given.get(name) is not None for name in slots):
        options["tuner"] = None
    return options | given


def activity_threads(settings: WorkerSettings, options: dict[str, Any]) -> int:
    """Count the threads for activities that are not async: one for each that may run at once.

    Args:
        settings: The configuration, which may set the number.
        options: Options of the worker, as from `sdk_options()`.
    """
    if settings.activity_threads is not None:
        return settings.activity_threads
    if options["tuner"] is not None and settings.tuner is not None:
        return settings.tuner.maximum_activities
    concurrent: int | None = options["max_concurrent_activities"]
    return concurrent or _DEFAULT_CONCURRENT_ACTIVITIES


def _pollers(settings: PollerSettings) -> PollerBehavior:
    if not settings.autoscaling:
        return PollerBehaviorSimpleMaximum(maximum=settings.maximum or _DEFAULT_POLLERS)
    minimum, initial, maximum = settings.range
    return PollerBehaviorAutoscaling(minimum=minimum, maximum=maximum, initial=initial)


def _tuner(settings: TunerSettings) -> WorkerTuner:
    return WorkerTuner.create_resource_based(
        target_memory_usage=settings.target_memory_usage,
        target_cpu_usage=settings.target_cpu_usage,
        workflow_config=ResourceBasedSlotConfig(maximum_slots=settings.maximum_workflow_tasks),
        activity_config=ResourceBasedSlotConfig(maximum_slots=settings.maximum_activities),
    )


def _deployment(settings: DeploymentSettings) -> WorkerDeploymentConfig:
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(
            deployment_name=settings.deployment_name, build_id=settings.build_id
        ),
        use_worker_versioning=settings.use_worker_versioning,
        default_versioning_behavior=VersioningBehavior[
            settings.default_versioning_behavior.upper()
        ],
    )


@dataclass(frozen=True)
class Discovered:
    """Definitions of a module or package, in the order of their modules' names."""

    workflows: tuple[type, ...]
    activities: tuple[Callable[..., Any], ...]


def discover(path: str | ModuleType) -> Discovered:
    """Import a module, and everything below it if it is a package, and collect definitions.

    A definition counts where it is defined, not where it is imported. `__main__` modules are
    skipped.

    Args:
        path: Dotted name of the module or package, or the module itself.

    Returns:
        Its workflows and activities.

    Raises:
        DiscoveryError: It cannot be imported, defines neither, or two definitions share a name.
    """
    root = _import(path) if isinstance(path, str) else path
    workflows: dict[str, type] = {}
    activities: dict[str, Callable[..., Any]] = {}
    for module in _modules(root):
        for value in vars(module).values():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value) and WORKFLOW_DEFINITION in vars(value):
                _add(workflows, getattr(value, WORKFLOW_DEFINITION).name, value, "workflows")
            elif inspect.isfunction(value) and hasattr(value, ACTIVITY_DEFINITION):
                _add(activities, getattr(value, ACTIVITY_DEFINITION).name, value, "activities")
    if not workflows and not activities:
        msg = (
            f"module {root.__name__!r} defines no workflow and no activity: decorate with"
            " @workflow.defn or @activity.defn"
        )
        raise DiscoveryError(msg)
    return Discovered(tuple(workflows.values()), tuple(activities.values()))


def check_unique_names(workflows: Sequence[type], activities: Sequence[Callable[..., Any]]) -> None:
    """Check that no two workflows, and no two activities, have the same name.

    Raises:
        DiscoveryError: They have; the message says where both are defined.
    """
    for attribute, values, kind in (
        (WORKFLOW_DEFINITION, workflows, "workflows"),
        (ACTIVITY_DEFINITION, activities, "activities"),
    ):
        seen: dict[str, Any] = {}
        for value in values:
            definition = getattr(value, attribute, None)
            if definition is None:
                decorator = "workflow.defn" if kind == "workflows" else "activity.defn"
                msg = f"{value!r} is not one of the {kind}: decorate it with @{decorator}"
                raise DiscoveryError(msg)
            _add(seen, definition.name, value, kind)


def _add(found: dict[str, Any], name: str | None, value: object, kind: str) -> None:
    key = name or "(dynamic)"
    if found.setdefault(key, value) is not value:
        msg = f"two {kind} are named {key!r}: {_path(found[key])} and {_path(value)}: rename one"
        raise DiscoveryError(msg)


def _path(value: Any) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"


def _modules(root: ModuleType) -> Iterator[ModuleType]:
    yield root
    if hasattr(root, "__path__"):
        names = (found.name for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."))
        for name in sorted(names):
            if not name.endswith(".__main__"):
                yield _import(name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            msg = (
                f"module {name!r} does not exist: pass a dotted name that can be imported from here"
            )
        else:
            msg = f"module {name!r} cannot be imported: {error.name!r} is not installed"
        raise DiscoveryError(msg) from error
    except (Exception, SystemExit) as error:
        msg = f"module {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise DiscoveryError(msg) from error
