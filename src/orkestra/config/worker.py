"""The settings of workers: what they run at once, how they poll, and how they stop."""

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from orkestra.config.section import Duration, Section

_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_ADDRESS: Final = re.compile(r"([^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", re.ASCII)
_PORTS: Final = 65_536
_FIXED_SLOTS: Final = (
    "max_concurrent_workflow_tasks",
    "max_concurrent_activities",
    "max_concurrent_local_activities",
    "max_concurrent_nexus_tasks",
)


class SandboxSettings(Section):
    """What the workflow sandbox passes through instead of importing again for each workflow.

    Attributes:
        passthrough: Modules to pass through besides installed packages.
        reload: Installed top-level packages to import again for each workflow all the same.
    """

    passthrough: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()


class PollerSettings(Section):
    """How many polls of one kind of task wait at the server at once.

    Attributes:
        autoscaling: Let the server's hints move the number between `minimum` and `maximum`.
        maximum: At most so many; None means 5, or 100 with autoscaling.
        minimum: With autoscaling, at least so many; None means 1.
        initial: With autoscaling, so many to begin with; None means 5, or `maximum` if less.
    """

    autoscaling: bool = False
    maximum: _Count | None = None
    minimum: _Count | None = None
    initial: _Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.autoscaling:
            if self.minimum is not None or self.initial is not None:
                msg = "minimum and initial need autoscaling = true: without it, give maximum alone"
                raise ValueError(msg)
            return self
        low, first, high = self.range
        if not low <= first <= high:
            msg = f"minimum {low}, initial {first}, maximum {high} are not in ascending order"
            raise ValueError(msg)
        return self

    @property
    def range(self) -> tuple[int, int, int]:
        """Minimum, initial and maximum of autoscaling."""
        maximum = self.maximum or 100
        minimum = self.minimum or 1
        return minimum, self.initial or min(max(5, minimum), maximum), maximum


class TunerSettings(Section):
    """Slots by the machine's load instead of by number.

    Attributes:
        target_memory_usage: Share of the memory, 0 to 1, that new work may bring it to.
        target_cpu_usage: Share of all processors, 0 to 1, that new work may bring them to.
        maximum_activities: At most so many activities at once, and as many threads for them.
        maximum_workflow_tasks: At most so many workflow tasks at once.
    """

    target_memory_usage: float = Field(default=0.8, gt=0, le=1)
    target_cpu_usage: float = Field(default=0.9, gt=0, le=1)
    maximum_activities: _Count = 500
    maximum_workflow_tasks: Annotated[int, Field(ge=2)] = 500


class DeploymentSettings(Section):
    """Which version of the code the worker runs, for worker versioning.

    Attributes:
        deployment_name: Name that all versions of one application's workers share; without a dot.
        build_id: This version: a commit or an image's tag.
        default_versioning_behavior: Of workflows that do not say it themselves: `pinned` ones end
            on the version they began on, `auto_upgrade` ones move on; `unspecified` refuses
            workflows that do not say it.
        use_worker_versioning: False only tells the server the version.
    """

    deployment_name: str = Field(pattern=r"^[^.\s]+$")
    build_id: str = Field(min_length=1)
    default_versioning_behavior: Literal["unspecified", "pinned", "auto_upgrade"] = "unspecified"
    use_worker_versioning: bool = True

    @model_validator(mode="after")
    def _behaviour_of_versions(self) -> Self:
        if not self.use_worker_versioning and self.default_versioning_behavior != "unspecified":
            msg = "default_versioning_behavior needs use_worker_versioning = true"
            raise ValueError(msg)
        return self


class WorkerSettings(Section):
    """How workers run and stop. None leaves a limit to the SDK.

    Attributes:
        graceful_shutdown_timeout: How long activities in flight may go on after a stop signal.
        cancellation_timeout: How long cancelled activities may take before the process is ended.
        max_concurrent_activities: Activities that run at once; None is the SDK's default, 100.
        max_concurrent_workflow_tasks: Workflow tasks at once; None is the SDK's default, 100.
        max_concurrent_local_activities: Local activities at once; None is the SDK's default, 100.
        max_concurrent_nexus_tasks: Nexus operations at once; None is the SDK's default, 100.
        tuner: Slots by the machine's load, instead of the four numbers above.
        max_cached_workflows: Workflows kept in memory between their tasks.
        activity_threads: Threads for activities that are not async; None means one for each
            concurrent activity.
        workflow_task_poller_behavior: Polls for workflow tasks.
        activity_task_poller_behavior: Polls for activities.
        nexus_task_poller_behavior: Polls for Nexus operations.
        nonsticky_to_sticky_poll_ratio: Share of the workflow polls, 0 to 1, that look for
            workflows which this worker does not have in memory.
        sticky_queue_schedule_to_start_timeout: How long a task waits for the worker that has its
            workflow in memory, before any worker may take it.
        max_activities_per_second: Activities that this worker starts in a second.
        max_task_queue_activities_per_second: Activities that all workers of the queue start in a
            second; the server keeps the number that came last.
        max_heartbeat_throttle_interval: Heartbeats are sent at least so often.
        default_heartbeat_throttle_interval: How often, where an activity has no heartbeat time-out.
        deployment_config: Version of the code, for worker versioning.
        restart: Make a worker that failed anew, after a pause that grows from a second; otherwise
            the process ends and whoever started it has to start it again.
        restart_longest_pause: The longest pause before a worker is made anew.
        probes_address: `host:port` that serves `/livez`, `/readyz` and `/metrics`; None serves
            nothing, port 0 is any free one.
        liveness_timeout: `/livez` fails when the event loop has not run for so long.
        sandbox: What the workflow sandbox passes through.
    """

    graceful_shutdown_timeout: Duration = timedelta(seconds=30)
    cancellation_timeout: Duration = timedelta(seconds=10)
    max_concurrent_activities: _Count | None = None
    max_concurrent_workflow_tasks: _Count | None = None
    max_concurrent_local_activities: _Count | None = None
    max_concurrent_nexus_tasks: _Count | None = None
    tuner: TunerSettings | None = None
    max_cached_workflows: int = Field(default=1000, ge=0)
    activity_threads: _Count | None = None
    workflow_task_poller_behavior: PollerSettings = PollerSettings()
    activity_task_poller_behavior: PollerSettings = PollerSettings()
    nexus_task_poller_behavior: PollerSettings = PollerSettings()
    nonsticky_to_sticky_poll_ratio: float = Field(default=0.2, ge=0, le=1)
    sticky_queue_schedule_to_start_timeout: Duration = timedelta(seconds=10)
    max_activities_per_second: _Rate | None = None
    max_task_queue_activities_per_second: _Rate | None = None
    max_heartbeat_throttle_interval: Duration = timedelta(seconds=60)
    default_heartbeat_throttle_interval: Duration = timedelta(seconds=30)
    deployment_config: DeploymentSettings | None = None
    restart: bool = False
    restart_longest_pause: Duration = timedelta(minutes=1)
    probes_address: str | None = None
    liveness_timeout: Duration = timedelta(seconds=30)
    sandbox: SandboxSettings = SandboxSettings()

    @field_validator("probes_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not (
            (match := _ADDRESS.fullmatch(value)) and int(match["port"]) < _PORTS
        ):
            msg = "must be host:port, for instance '127.0.0.1:9464'"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _without_contradictions(self) -> Self:
        for problem in (self._slots_problem(), self._polls_problem(), self._heartbeat_problem()):
            if problem is not None:
                raise ValueError(problem)
        return self

    def _slots_problem(self) -> str | None:
        given = [name for name in _FIXED_SLOTS if getattr(self, name) is not None]
        if self.tuner is not None and given:
            return f"tuner and {given[0]} exclude each other: leave one of them out"
        if self.max_cached_workflows and self.max_concurrent_workflow_tasks == 1:
            return "max_concurrent_workflow_tasks = 1 needs max_cached_workflows = 0, or 2 of them"
        return None

    def _polls_problem(self) -> str | None:
        polls = self.workflow_task_poller_behavior
        if self.max_cached_workflows and not polls.autoscaling and polls.maximum == 1:
            return "workflow_task_poller_behavior needs maximum = 2, or max_cached_workflows = 0"
        return None

    def _heartbeat_problem(self) -> str | None:
        if self.default_heartbeat_throttle_interval > self.max_heartbeat_throttle_interval:
            return "default_heartbeat_throttle_interval exceeds max_heartbeat_throttle_interval"
        return None
