"""From what stands on the command line to workers, in the worker's process."""

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from temporalio.worker import Worker

import orkestra
from orkestra.config import OrkestraConfig
from orkestra.errors import ConfigurationError, DiscoveryError, OrkestraError
from orkestra.temporal.discovery import discover
from orkestra.temporal.worker import create_workers

_CONSTANT: Final = "TASK_QUEUE"
_LONGEST: Final = 20_000
_OURS: Final = str(Path(orkestra.__file__).parent)


@dataclass(frozen=True)
class Source:
    """Where workers come from.

    Attributes:
        app: A module or package whose workflows and activities are found, or `module:function`
            with a function, async or not, that returns a worker or several.
        task_queue: The queue for a module or package; None takes the application's only
            `TASK_QUEUE`, else its name.
        config_file: The configuration file; None means `orkestra.toml`, where there is one.
    """

    app: str
    task_queue: str | None
    config_file: str | None

    def config(self) -> OrkestraConfig:
        """The configuration as it is now."""
        return OrkestraConfig.load(self.config_file)


async def load_workers(source: Source) -> list[Worker]:
    """Import the application and make its workers.

    Raises:
        OrkestraError: The application cannot be loaded.
        Exception: Whatever a function raises.
    """
    module, colon, function = source.app.partition(":")
    if colon:
        return await _made_by(module, function)
    found = discover(module)
    return await create_workers(
        source.config(),
        task_queue=source.task_queue or _queue_of(module),
        workflows=found.workflows,
        activities=found.activities,
    )


async def _made_by(module: str, function: str) -> list[Worker]:
    make = getattr(importlib.import_module(module), function, None)
    if not callable(make):
        msg = f"module {module!r} has no function {function!r} that makes workers"
        raise DiscoveryError(msg)
    made: Any = make()
    if inspect.isawaitable(made):
        made = await made
    workers: list[Any] = [*made] if isinstance(made, list | tuple) else [made]
    if not workers or not all(isinstance(worker, Worker) for worker in workers):
        msg = f"{module}:{function} returned {made!r}: return what create_worker() gives, or a list"
        raise DiscoveryError(msg)
    return workers


def _queue_of(module: str) -> str:
    top = module.partition(".")[0]
    named = {
        queue
        for name, imported in list(sys.modules.items())
        if name.partition(".")[0] == top
        and isinstance(queue := getattr(imported, _CONSTANT, None), str)
    }
    if len(named) > 1:
        queues = ", ".join(sorted(named))
        msg = f"{top!r} has several {_CONSTANT}s ({queues}): choose one by --task-queue"
        raise ConfigurationError(msg)
    return named.pop() if named else top


def first_party_files() -> list[str]:
    """The files of the modules that this process has imported and nobody has installed."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted({file for file in files if file and file.endswith(".py") and _is_theirs(file)})


def explain(error: BaseException) -> str:
    """What went wrong, for whoever has just saved a file: the traceback of their code."""
    return _explain(error)[-_LONGEST:]


def _explain(error: BaseException) -> str:
    cause = error
    while isinstance(cause, OrkestraError) and cause.__cause__ is not None:
        cause = cause.__cause__
    # A worker that is refused says what the sandbox found below its own error.
    while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
        cause = cause.__cause__
    theirs = _theirs(cause.__traceback__)
    if theirs is None and not isinstance(cause, SyntaxError):
        return str(error) if isinstance(error, OrkestraError) else repr(error)
    cause.__cause__ = None
    shown = "".join(traceback.format_exception(type(cause), cause, theirs)).rstrip()
    # What the sandbox refuses has a mend, which stands in the error that names it.
    return f"{shown}\n{error}" if isinstance(error.__cause__, RuntimeError) else shown


def _theirs(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame of the application on."""
    while frames is not None and not _is_theirs(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_theirs(file: str) -> bool:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = (_OURS, "<", *(str(sysconfig.get_path(kind)) for kind in kinds))
    return not file.startswith(installed)


def counts_of(workers: Sequence[Worker]) -> tuple[int, int]:
    """How many workflow types and activity types some workers run."""
    configs: list[Mapping[str, Any]] = [{**worker.config()} for worker in workers]
    kinds: list[set[Any]] = [
        {each for config in configs for each in config.get(kind) or ()}
        for kind in ("workflows", "activities")
    ]
    return len(kinds[0]), len(kinds[1])
