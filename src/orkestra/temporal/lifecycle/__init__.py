"""Running workers: start, watch, restart, drain, and an exit code that says how it ended."""

from orkestra.temporal.lifecycle.ending import WorkerExit
from orkestra.temporal.lifecycle.running import run_worker

__all__ = ["WorkerExit", "run_worker"]
