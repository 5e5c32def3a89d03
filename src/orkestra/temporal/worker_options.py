"""The worker's settings in the SDK's own objects."""

from typing import Any, Final

from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import (
    PollerBehavior,
    PollerBehaviorAutoscaling,
    PollerBehaviorSimpleMaximum,
    ResourceBasedSlotConfig,
    WorkerDeploymentConfig,
    WorkerTuner,
)

from orkestra.config import DeploymentSettings, PollerSettings, TunerSettings, WorkerSettings

_SAME: Final = (
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
_SDK_POLLERS: Final = 5
_SDK_CONCURRENT_ACTIVITIES: Final = 100


def sdk_options(settings: WorkerSettings, given: dict[str, Any]) -> dict[str, Any]:
    """What `temporalio.worker.Worker` is to get.

    Args:
        settings: The configuration.
        given: Options of the SDK's that win over the configuration; a tuner also wins over the
            configured numbers, and the other way round.
    """
    options: dict[str, Any] = {name: getattr(settings, name) for name in _SAME}
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
    """How many threads activities need that are not async: one for each that may run at once.

    Args:
        settings: The configuration, which may name the number.
        options: The options of the worker, as `sdk_options()` gave them.
    """
    if settings.activity_threads is not None:
        return settings.activity_threads
    if options["tuner"] is not None and settings.tuner is not None:
        return settings.tuner.maximum_activities
    concurrent: int | None = options["max_concurrent_activities"]
    return concurrent or _SDK_CONCURRENT_ACTIVITIES


def _pollers(settings: PollerSettings) -> PollerBehavior:
    if not settings.autoscaling:
        return PollerBehaviorSimpleMaximum(maximum=settings.maximum or _SDK_POLLERS)
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
