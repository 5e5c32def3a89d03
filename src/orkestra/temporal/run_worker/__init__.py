"""Running workers: start, watch, restart, drain, and an exit code that says how it ended."""

from orkestra.temporal.run_worker.run import WorkerExit, run_worker

__all__ = ["WorkerExit", "run_worker"]
