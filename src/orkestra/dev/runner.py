"""The worker's process of `orkestra dev`: imports the application, replays, and runs.

Each change starts a new process, so that no module is left half reloaded. It imports the
application while the old worker still runs, waits for `go` on standard input, and then replays the
open executions: one that the new code cannot replay would fail its workflow tasks, so the worker
waits until it has been fixed or closed. It ends when `orkestra dev` ends.
"""

import asyncio
import importlib
import inspect
import logging
import math
import os
import re
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn

from google.protobuf.message import Message
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecution, WorkflowHistory
from temporalio.service import RPCError
from temporalio.worker import Plugin, Replayer, Worker

import orkestra
from orkestra.cli.options import log_core_to_python, operator_client
from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.dev.messages import Checked, IncompatibleExecution, Loaded, Running, send_message
from orkestra.errors import ConfigurationError, DiscoveryError, OrkestraError
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.temporal.run_worker import run_worker
from orkestra.temporal.worker import create_workers, discover

_TASK_QUEUE_CONSTANT: Final = "TASK_QUEUE"
_LONGEST_TRACEBACK_CHARACTERS: Final = 20_000
_PACKAGE_FOLDER: Final = str(Path(orkestra.__file__).parent)


@dataclass(frozen=True)
class Application:
    """The application that the workers run.

    Attributes:
        app: A module or package that defines workflows and activities, or `module:function` with a
            function, async or not, that returns a worker or several.
        task_queue: The queue for a module or package; None means the application's only
            `TASK_QUEUE`, else its name.
        config_file: The configuration file; None means `orkestra.toml`, if it exists.
    """

    app: str
    task_queue: str | None
    config_file: str | None

    def config(self) -> OrkestraConfig:
        """Load the current configuration."""
        return OrkestraConfig.load(self.config_file)


async def load_workers(application: Application) -> list[Worker]:
    """Import the application and create its workers."""
    module, colon, function = application.app.partition(":")
    if colon:
        return await _call_factory(module, function)
    found = discover(module)
    return await create_workers(
        application.config(),
        task_queue=application.task_queue or _default_task_queue(module),
        workflows=found.workflows,
        activities=found.activities,
    )


async def _call_factory(module: str, function: str) -> list[Worker]:
    factory = getattr(importlib.import_module(module), function, None)
    if not callable(factory):
        msg = f"module {module!r} has no function {function!r}: name one that returns workers"
        raise DiscoveryError(msg)
    created: Any = factory()
    if inspect.isawaitable(created):
        created = await created
    workers: list[Any] = [*created] if isinstance(created, list | tuple) else [created]
    if not workers or not all(isinstance(worker, Worker) for worker in workers):
        msg = (
            f"{module}:{function} returned {created!r}: return the result of create_worker(), or a"
            " list of workers"
        )
        raise DiscoveryError(msg)
    return workers


def _default_task_queue(module: str) -> str:
    top = module.partition(".")[0]
    named = {
        queue
        # A copy: reading an attribute of a lazy module can import others.
        for name, imported in list(sys.modules.items())
        if name.partition(".")[0] == top
        and isinstance(queue := getattr(imported, _TASK_QUEUE_CONSTANT, None), str)
    }
    if len(named) > 1:
        queues = ", ".join(sorted(named))
        msg = f"{top!r} has several {_TASK_QUEUE_CONSTANT}s ({queues}): use --task-queue"
        raise ConfigurationError(msg)
    return named.pop() if named else top


def first_party_files() -> list[str]:
    """List the files of the imported modules that are not installed packages."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted(
        {file for file in files if file and file.endswith(".py") and _is_first_party(file)}
    )


def explain(error: BaseException) -> str:
    """Describe an error of the application by the traceback of its own frames."""
    return _explain(error)[-_LONGEST_TRACEBACK_CHARACTERS:]


def _explain(error: BaseException) -> str:
    cause = error
    while isinstance(cause, OrkestraError) and cause.__cause__ is not None:
        cause = cause.__cause__
    # The error of a worker has that of the sandbox as its cause.
    while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
        cause = cause.__cause__
    frames = _first_party_frames(cause.__traceback__)
    if frames is None and not isinstance(cause, SyntaxError):
        return str(error) if isinstance(error, OrkestraError) else repr(error)
    cause.__cause__ = None
    shown = "".join(traceback.format_exception(type(cause), cause, frames)).rstrip()
    # The outer error says how to fix what the sandbox refuses.
    return f"{shown}\n{error}" if isinstance(error.__cause__, RuntimeError) else shown


def _first_party_frames(frames: TracebackType | None) -> TracebackType | None:
    """Drop the frames before the first one of the application."""
    while frames is not None and not _is_first_party(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_first_party(file: str) -> bool:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = (_PACKAGE_FOLDER, "<", *(str(sysconfig.get_path(kind)) for kind in kinds))
    return not file.startswith(installed)


def _count_types(workers: Sequence[Worker], kind: str) -> int:
    configs: list[Mapping[str, Any]] = [{**worker.config()} for worker in workers]
    return len({each for config in configs for each in config.get(kind) or ()})


IMPORT_FAILED: Final = 3
"""Exit code if the application cannot be imported, which a message has reported."""

GO: Final = b"go\n"
"""Line on standard input that lets the worker run."""

_logger: Final = logging.getLogger(__name__)
_REPLAY_SECONDS: Final = 30.0
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_EXIT_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 1.0
_MOST_REPORTED: Final = 5


def _follow_stdin(go: threading.Event) -> None:
    """Read standard input until `orkestra dev` is gone, and end this process then."""
    for line in sys.stdin.buffer:
        if line == GO:
            go.set()
    # As `orkestra dev` would: the worker's own handler lets it finish its activities.
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_EXIT_SECONDS)
    os._exit(1)


async def _run(application: Application, pipe: int, *, force: bool) -> int:
    go = threading.Event()
    threading.Thread(
        target=_follow_stdin, args=(go,), name="orkestra-dev-stdin", daemon=True
    ).start()
    try:
        workers = await load_workers(application)
    # SystemExit: a module may run `main()` or `sys.exit()` when it is imported.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any error of the application
        send_message(pipe, Loaded(first_party_files(), trouble=explain(error)))
        return IMPORT_FAILED
    send_message(pipe, Loaded(first_party_files()))
    while not go.is_set():  # noqa: ASYNC110 - it is set by a thread
        await asyncio.sleep(0.02)
    with _without_replay_logs():
        await _wait_for_compatible_code(application, workers, pipe, force=force)
    counts = [_count_types(workers, kind) for kind in ("workflows", "activities")]
    send_message(pipe, Running([each.task_queue for each in workers], *counts))
    return await run_worker(*workers)


async def _wait_for_compatible_code(
    application: Application, workers: Sequence[Worker], pipe: int, *, force: bool
) -> None:
    """Replay the open executions until the code suits all that are still open, or by force."""
    while True:
        found = await _replay_open(application, workers, pipe)
        if not found or force:
            return
        # Until one of them has closed: a change of the code starts a new process instead.
        while found <= await _open_run_ids(application, workers):  # noqa: ASYNC110 - on the server
            await asyncio.sleep(_POLL_SECONDS)


async def _replay_open(application: Application, workers: Sequence[Worker], pipe: int) -> set[str]:
    """Replay the open executions, report them, and return the runs that cannot be replayed."""
    replayed = skipped = 0
    incompatible: list[IncompatibleExecution] = []
    try:
        async with asyncio.timeout(_REPLAY_SECONDS):
            for worker in workers:
                async with _operator(application, worker) as operator:
                    executions, more = await open_executions(operator, worker)
                    # All count as skipped until they are replayed: the time limit may end the loop.
                    skipped += more + len(executions)
                    check = ReplayCheck(operator, worker)
                    for each in executions:
                        found = await check.replay(each)
                        replayed, skipped = replayed + 1, skipped - 1
                        incompatible += [] if found is None else [found]
    except (TimeoutError, RPCError) as error:
        _logger.warning("Not all open executions were replayed: %r", error)
    # A message must fit into a pipe, and a screen.
    reported = incompatible[:_MOST_REPORTED]
    send_message(pipe, Checked(replayed, skipped, reported, len(incompatible)))
    return {each.run_id for each in incompatible}


async def _open_run_ids(application: Application, workers: Sequence[Worker]) -> set[str]:
    found: set[str] = set()
    for worker in workers:
        async with _operator(application, worker) as operator:
            executions, _ = await open_executions(operator, worker)
            found |= {each.run_id for each in executions}
    return found


def _operator(application: Application, worker: Worker) -> AbstractAsyncContextManager[Client]:
    return operator_client(
        application.config().temporal,
        namespace=worker.client.namespace,
        deadline=_CONNECT_TIMEOUT,
        verify_namespace=False,
    )


class _ReplayLogFilter(logging.Filter):
    """Filter that drops the SDK's records of replays, which its core delivers late."""

    until = math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """See base class."""
        return not record.name.startswith("temporalio.") or record.created > self.until


@contextmanager
def _without_replay_logs() -> Generator[None]:
    replay_filter = _ReplayLogFilter()
    for handler in logging.getLogger().handlers:
        handler.addFilter(replay_filter)
    try:
        yield
    finally:
        replay_filter.until = time.time()


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the worker, and end the process with its exit code.

    Args:
        arguments: The application; its queue and its configuration file, or empty strings; the
            descriptor of a pipe for messages; `force`, or `hold` to wait for compatible code.
    """
    app, task_queue, config_file, pipe, mode = arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "orkestra", "temporalio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log_core_to_python()
    # Children of the application would keep the pipe open after this process.
    os.set_inheritable(int(pipe), False)  # noqa: FBT003 - it takes nothing by name
    code = 1
    try:
        application = Application(app, task_queue or None, config_file or None)
        code = asyncio.run(_run(application, int(pipe), force=mode == "force"))
    except Exception:
        _logger.exception("The worker failed")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # As in `orkestra.cli.__main__`: the SDK's threads abort an interpreter that exits.
    os._exit(code)


_MOST_REPLAYED: Final = 200

_STARTED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
_COMPLETED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
# The core reports its reason as the text of a Rust structure.
_REASON: Final = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
_EVENT: Final = re.compile(r"HistoryEvent\(id: (\d+),")
_LONGEST_REASON_CHARACTERS: Final = 400


async def open_executions(operator: Client, worker: Worker) -> tuple[list[WorkflowExecution], int]:
    """List the newest open executions of a worker's queue, and count the others."""
    # T24: a quote in a list filter is doubled.
    queue = worker.task_queue.replace("'", "''")
    query = f"ExecutionStatus = 'Running' AND TaskQueue = '{queue}'"
    found = [each async for each in operator.list_workflows(query, limit=_MOST_REPLAYED)]
    total = (
        (await operator.count_workflows(query)).count
        if len(found) == _MOST_REPLAYED
        else len(found)
    )
    return found, max(0, total - len(found))


class ReplayCheck:
    """Replay of executions with the code of a worker that does not run yet."""

    def __init__(self, operator: Client, worker: Worker) -> None:
        self._operator = operator
        self._replayer = _replayer(worker)

    async def replay(self, execution: WorkflowExecution) -> IncompatibleExecution | None:
        """Replay an execution; return None if it can continue, or has closed."""
        handle = self._operator.get_workflow_handle(execution.id, run_id=execution.run_id)
        events = [*(await handle.fetch_history()).events]
        failure = await self._failure(events, execution.id)
        if failure is None:
            return None
        place = await self._place(events, execution.id, failure)
        return IncompatibleExecution(
            workflow_id=execution.id,
            run_id=execution.run_id,
            workflow_type=execution.workflow_type,
            namespace=execution.namespace,
            place=place,
            reason=_reason(failure),
        )

    async def _failure(self, events: list[HistoryEvent], workflow_id: str) -> Exception | None:
        history = WorkflowHistory(workflow_id, events)
        result = await self._replayer.replay_workflow(history, raise_on_replay_failure=False)
        return result.replay_failure

    async def _place(self, events: list[HistoryEvent], workflow_id: str, failure: Exception) -> str:
        """Find the event that the code does not lead to: in the core's error, else by bisection."""
        if named := _EVENT.search(str(failure)):
            return next((_shown(e) for e in events if e.event_id == int(named[1])), "")
        # A history can be replayed up to any of its workflow tasks.
        ends = [n for n, event in enumerate(events) if event.event_type == _STARTED]
        low, high = 0, len(ends)  # the first workflow task that cannot be replayed
        while low < high:
            middle = (low + high) // 2
            if await self._failure(events[: ends[middle] + 1], workflow_id) is None:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return _shown(events[0])
        since = events[ends[low - 1] :]
        completed = next((e for e in since if e.event_type == _COMPLETED), since[0])
        caused = [e for e in since if _cause(e) == completed.event_id]
        return _shown(caused[0]) if len(caused) == 1 else f"after {_shown(completed)}"


def _replayer(worker: Worker) -> Replayer:
    """Make a replayer as the worker runs, but without tracing: its last task is no replay."""
    of_worker: Mapping[str, Any] = {**worker.config()}
    of_client = worker.client.config()
    given: Sequence[Any] = of_client["plugins"]
    plugins = [_untraced(p) if isinstance(p, OrkestraPlugin) else p for p in given]
    names = ("workflows", "workflow_failure_exception_types", "debug_mode", "interceptors")
    options = {name: of_worker[name] for name in names if of_worker.get(name) is not None}
    return Replayer(
        **options,
        data_converter=of_client["data_converter"],
        namespace=of_client["namespace"],
        plugins=[plugin for plugin in plugins if isinstance(plugin, Plugin)],
    )


def _untraced(plugin: OrkestraPlugin) -> OrkestraPlugin:
    config: OrkestraConfig = plugin.config
    return OrkestraPlugin(config.model_copy(update={"langfuse": LangfuseSettings()}))


def _cause(event: HistoryEvent) -> int | None:
    attributes: Message = getattr(event, event.WhichOneof("attributes") or "")
    return getattr(attributes, "workflow_task_completed_event_id", None)


def _shown(event: HistoryEvent) -> str:
    words = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").split("_")
    return f"event {event.event_id} ({''.join(word.capitalize() for word in words)})"


def _reason(failure: Exception) -> str:
    found = _REASON.search(str(failure))
    text = found[1].replace('\\"', '"').replace("\\'", "'") if found else str(failure)
    text = text.removeprefix("[TMPRL1100] ").removeprefix("Nondeterminism error: ")
    return text[:_LONGEST_REASON_CHARACTERS]


if __name__ == "__main__":
    main(sys.argv[1:])
