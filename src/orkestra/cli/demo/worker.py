"""The demo's worker: `orkestra worker` in a process of its own, which ends with the demo."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from orkestra.cli.demo.app import APP
from orkestra.config import LangfuseSettings
from orkestra.devserver.process import GuardedProcess
from orkestra.errors import OrkestraError

_GRACE: Final = timedelta(seconds=20)
_SHOWN_LINES: Final = 15
_LOG: Final = "worker.log"
_SCRIPT: Final = f'cd "$0" && exec "$@" >{_LOG} 2>&1'
_OURS: Final = ("TEMPORAL_", "ORKESTRA_")
_OF_LANGFUSE: Final = ("LANGFUSE_", "OTEL_")


class DemoError(OrkestraError):
    """The demo could not be shown."""


class WorkerProcess:
    """`orkestra worker` in a process of its own.

    Args:
        folder: Where it runs and keeps its log.
        task_queue: What it polls.
        environment: Its whole environment.
    """

    def __init__(self, folder: Path, *, task_queue: str, environment: Mapping[str, str]) -> None:
        self.arguments: Final = ("worker", APP, "--task-queue", task_queue)
        self._log = folder / _LOG
        python = (sys.executable, "-m", "orkestra.cli", *self.arguments)
        self._process = GuardedProcess(
            ["/bin/sh", "-c", _SCRIPT, str(folder), *python],
            environment=environment,
            grace=_GRACE,
            echo=False,
        )

    @property
    def pid(self) -> int | None:
        """Number of its process, or None once it has ended."""
        return self._process.pid if self._process.poll() else None

    async def end(self) -> None:
        """Let it finish what it does and send its traces; does nothing once it has ended."""
        await self._process.end()

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            DemoError: It has ended.
        """
        if not self._process.poll():
            end = "\n".join(self.log().splitlines()[-_SHOWN_LINES:])
            msg = f"the worker ended with exit code {self._process.exit_code}, its log with:\n{end}"
            raise DemoError(msg)

    def log(self) -> str:
        """Its log up to now."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def worker_environment(
    folder: Path,
    *,
    examples: Path,
    address: str,
    langfuse: LangfuseSettings,
    is_langfuse_theirs: bool,
) -> dict[str, str]:
    """The environment of a worker that takes its settings from the demo alone.

    Args:
        folder: The worker's folder; an empty profile for Temporal is put there.
        examples: Folder that holds the example.
        address: Where the Temporal server is.
        langfuse: Where traces go.
        is_langfuse_theirs: Whether that comes from the user, whose other variables for Langfuse
            then hold, too.
    """
    profile = folder / "temporal.toml"
    profile.touch()
    hidden = (*_OURS, *(() if is_langfuse_theirs else _OF_LANGFUSE))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    path = [Path(part).absolute() for part in inherited.get("PYTHONPATH", "").split(":") if part]
    return {
        **inherited,
        "ORKESTRA_LANGFUSE": _as_json(langfuse),
        "PYTHONPATH": ":".join(map(str, (examples, *path))),
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_CONFIG_FILE": str(profile),
    }


def _as_json(langfuse: LangfuseSettings) -> str:
    values = langfuse.model_dump(mode="json", exclude_none=True)
    if langfuse.secret_key is not None:
        values["secret_key"] = langfuse.secret_key.get_secret_value()
    return json.dumps(values)
