"""What is known of the workers right now: written by their event loop, read by any thread."""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """How far the process has come."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass
class WorkerStatus:
    """One worker.

    Attributes:
        task_queue: The queue that it polls.
        namespace: Its namespace.
        address: The server.
        fault: Why it does not run; None where it does.
        unreachable: Why the server does not serve its namespace; None where it does.
        trouble: Why it takes no work although it runs; None where it does.
        restarts: How often it was made anew.
    """

    task_queue: str
    namespace: str
    address: str
    fault: str | None = "not started yet"
    unreachable: str | None = None
    trouble: str | None = None
    restarts: int = 0

    @property
    def problem(self) -> str | None:
        """Why it takes no work; None where it does."""
        return self.fault or self.trouble


@dataclass
class Status:
    """The process.

    Attributes:
        liveness_timeout: After what silence of the event loop it counts as stuck.
        stage: How far it has come.
        reason: What there is to say of the stage.
        workers: The workers, as soon as they are made.
    """

    liveness_timeout: timedelta = timedelta(seconds=30)
    stage: Stage = Stage.STARTING
    reason: str = "connecting"
    workers: tuple[WorkerStatus, ...] = ()
    _last_beat: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """The event loop runs."""
        self._last_beat = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the event loop ran last."""
        return time.monotonic() - self._last_beat

    @property
    def is_alive(self) -> bool:
        """Whether the event loop runs."""
        return self.silence < self.liveness_timeout.total_seconds()

    @property
    def is_ready(self) -> bool:
        """Whether every worker takes work."""
        return self.stage is Stage.RUNNING and not any(each.problem for each in self.workers)

    def enter(self, stage: Stage, reason: str = "") -> None:
        """Come to another stage."""
        self.stage, self.reason = stage, reason

    def liveness(self) -> dict[str, Any]:
        """The body of `/livez`."""
        told: dict[str, Any] = {"alive": self.is_alive, "stage": self.stage}
        if not self.is_alive:
            told["reason"] = f"the event loop has not run for {self.silence:.1f} s"
        return told

    def readiness(self) -> dict[str, Any]:
        """The body of `/readyz`."""
        told: dict[str, Any] = {"ready": self.is_ready, "stage": self.stage}
        if not self.is_ready:
            problems = (f"{w.task_queue!r}: {w.problem}" for w in self.workers if w.problem)
            told["reason"] = self.reason or "; ".join(problems)
        told["workers"] = [
            {
                "task_queue": worker.task_queue,
                "namespace": worker.namespace,
                "ready": self.stage is Stage.RUNNING and worker.problem is None,
                "problem": worker.problem,
                "restarts": worker.restarts,
            }
            for worker in self.workers
        ]
        return told
