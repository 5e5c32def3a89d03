"""The workflow's clock as a history tells it: what `workflow.time_ns()` said in the run.

The clock stands still while workflow code runs. Each workflow task that was completed sets it to
the time of the task's start event, and each local activity moves it on within a task, by the time
that its last attempt took. It never goes back.
"""

from dataclasses import dataclass
from typing import Final

_FIRST_ACTIVATION: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalActivityTimes:
    """What the marker of a local activity says of its times, in nanoseconds since 1970.

    Attributes:
        scheduled_wall_ns: `original_schedule_time`: by the wall clock of the worker.
        completed_ns: `complete_time`: by the workflow's clock.
        activation_index: In which activation of its task it was delivered, if the marker says so.
    """

    scheduled_wall_ns: int
    completed_ns: int
    activation_index: int | None = None


@dataclass(frozen=True, slots=True)
class _Tick:
    """A reading of the workflow's clock, and the worker's wall clock at or before it."""

    wall_ns: int
    clock_ns: int


class WorkflowClock:
    """Follows the clock of a run along its history.

    Call the methods in the order of the events: for each workflow task that was completed
    `task_completed()`, then for each marker of a local activity that the task recorded
    `local_activity()`. In between, `now_ns` is the clock at which the other events that the task
    recorded were issued: markers and commands stand in the order in which they came about.
    """

    def __init__(self) -> None:
        """Begin before the first task."""
        self.now_ns = 0
        self.delivered_ns = 0
        self._ticks: list[_Tick] = []
        self._scheduled: dict[int, int] = {}

    def task_completed(
        self,
        started_ns: int,
        markers: tuple[LocalActivityTimes, ...] = (),
        *,
        is_beat: bool = False,
    ) -> None:
        """Go on to a workflow task that was completed.

        Args:
            started_ns: Time of its event `WorkflowTaskStarted`.
            markers: Those of local activities that the task recorded.
            is_beat: Whether the task before recorded nothing but that it goes on: a heartbeat,
                during which local activities run on.

        Sets `delivered_ns`, the clock at which the task's signals and updates were delivered.
        """
        self.now_ns = max(self.now_ns, started_ns)
        with_first = (m.completed_ns for m in markers if m.activation_index == _FIRST_ACTIVATION)
        self.delivered_ns = max(self.now_ns, *with_first, 0)
        if not is_beat:
            self._ticks.clear()
        self._ticks.append(_Tick(started_ns if self._ticks else 0, self.now_ns))

    def local_activity(self, times: LocalActivityTimes) -> int:
        """Go on to the marker of a local activity.

        A local activity that backs off longer than a task leaves one marker for each time that it
        was scheduled, all with the same `scheduled_wall_ns`, and all its attempts begin with it.

        Returns:
            The clock when it was scheduled, at which its span begins: the latest reading that the
            worker had seen by then. Where local activities run across several workflow tasks, the
            clocks of server and worker are compared.
        """
        wall_ns = times.scheduled_wall_ns
        if wall_ns not in self._scheduled:
            seen = [tick.clock_ns for tick in self._ticks if tick.wall_ns <= wall_ns]
            self._scheduled[wall_ns] = max(seen, default=self.now_ns)
        scheduled_ns = self._scheduled[wall_ns]
        took_ns = times.completed_ns - scheduled_ns
        self.now_ns = max(self.now_ns, times.completed_ns)
        self._ticks.append(_Tick(wall_ns + max(took_ns, 0), times.completed_ns))
        return scheduled_ns
