"""The worker's process: loads the application, checks what is open, and runs.

It is started anew for each change, so that no module is left half reloaded. It does what the
process that watches it says on standard input, and ends when that one does.

From what stands on the command line to workers, in the worker's process.

Finds open executions that cannot go on with new code, before a worker takes them.
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
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
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
from orkestra.dev.messages import Checked, Drifted, Loaded, Running, tell
from orkestra.errors import ConfigurationError, DiscoveryError, OrkestraError
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.temporal.run_worker import run_worker
from orkestra.temporal.worker import create_workers, discover

_CONSTANT: Final = "TASK_QUEUE"
_LONGEST_VALUE_CHARACTERS: Final = 20_000
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
    return _explain(error)[-_LONGEST_VALUE_CHARACTERS:]


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


BROKEN: Final = 3
"""Exit code where the application cannot be loaded, which was told."""

GO: Final = b"go\n"
"""The word that lets the worker run."""

_logger: Final = logging.getLogger(__name__)
_CHECK_WITHIN: Final = 30.0
_CONNECT_WITHIN: Final = timedelta(seconds=10)
_LAST_GRACE: Final = 15.0
_LOOK: Final = 1.0
_MOST_TOLD: Final = 5


@dataclass(frozen=True)
class _Orders:
    """What the watching process says."""

    may_go: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        """Read standard input until the watching process is gone, and end then, too."""
        for line in sys.stdin.buffer:
            if line == GO:
                self.may_go.set()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_LAST_GRACE)
        os._exit(1)


async def _run(source: Source, pipe: int, *, force: bool) -> int:
    orders = _Orders()
    threading.Thread(target=orders.follow, name="orkestra-orders", daemon=True).start()
    try:
        workers = await load_workers(source)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the developer's, and told
        tell(pipe, Loaded(first_party_files(), trouble=explain(error)))
        return BROKEN
    tell(pipe, Loaded(first_party_files()))
    while not orders.may_go.is_set():  # noqa: ASYNC110 - it is set by a thread
        await asyncio.sleep(0.02)
    with _hushed():
        await _check(source, workers, pipe, force=force)
    tell(pipe, Running([each.task_queue for each in workers], *counts_of(workers)))
    return await run_worker(*workers)


async def _check(source: Source, workers: Sequence[Worker], pipe: int, *, force: bool) -> None:
    """Replay what is open; come back when all of it can go on, or has ended, or by force."""
    while True:
        found = await _drifted(source, workers, pipe)
        if not found or force:
            return
        while found <= await _open_runs(source, workers):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(_LOOK)


async def _drifted(source: Source, workers: Sequence[Worker], pipe: int) -> set[str]:
    """Replay what is open, tell of it, and return the runs that cannot go on."""
    replayed = left_out = 0
    drifted: list[Drifted] = []
    try:
        async with asyncio.timeout(_CHECK_WITHIN):
            for worker in workers:
                async with _operator(source, worker) as operator:
                    executions, more = await open_executions(operator, worker)
                    left_out += more + len(executions)
                    check = Check(operator, worker)
                    for each in executions:
                        found = await check.drift_of(each)
                        replayed, left_out = replayed + 1, left_out - 1
                        drifted += [] if found is None else [found]
    except (TimeoutError, RPCError) as error:
        _logger.warning("Not all open executions were checked: %r", error)
    tell(pipe, Checked(replayed, left_out, drifted[:_MOST_TOLD], len(drifted)))
    return {each.run_id for each in drifted}


async def _open_runs(source: Source, workers: Sequence[Worker]) -> set[str]:
    found: set[str] = set()
    for worker in workers:
        async with _operator(source, worker) as operator:
            executions, _ = await open_executions(operator, worker)
            found |= {each.run_id for each in executions}
    return found


@asynccontextmanager
async def _operator(source: Source, worker: Worker) -> AsyncGenerator[Client]:
    async with operator_client(
        source.config().temporal,
        namespace=worker.client.namespace,
        deadline=_CONNECT_WITHIN,
        verify_namespace=False,
    ) as client:
        yield client


class _Hush(logging.Filter):
    """Leaves out what the SDK says of replays, which comes late from its core."""

    until = math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """See base class."""
        return not record.name.startswith("temporalio.") or record.created > self.until


@contextmanager
def _hushed() -> Generator[None]:
    hush = _Hush()
    for handler in logging.getLogger().handlers:
        handler.addFilter(hush)
    try:
        yield
    finally:
        hush.until = time.time()


def main(arguments: Sequence[str]) -> NoReturn:
    """Run, and end the process with the worker's exit code.

    Args:
        arguments: The application, its queue or nothing, its configuration file or nothing, the
            descriptor of a pipe for messages, and `force` or `hold`.
    """
    app, task_queue, config_file, pipe, drift = arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "orkestra", "temporalio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log_core_to_python()
    os.set_inheritable(int(pipe), False)  # noqa: FBT003 - it takes nothing by name
    code = 1
    try:
        source = Source(app, task_queue or None, config_file or None)
        code = asyncio.run(_run(source, int(pipe), force=drift == "force"))
    except Exception:
        _logger.exception("The worker failed")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # As `orkestra.cli.main()`: the SDK's threads abort an interpreter on its way out.
    os._exit(code)


MOST: Final = 200
"""How many executions are replayed, the newest first."""

_STARTED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
_COMPLETED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
# The core hands its reason over as the text of a structure of Rust.
_REASON: Final = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
_EVENT: Final = re.compile(r"HistoryEvent\(id: (\d+),")
_LONGEST_REASON_CHARACTERS: Final = 400


async def open_executions(operator: Client, worker: Worker) -> tuple[list[WorkflowExecution], int]:
    """List what runs on a worker's queue.

    Args:
        operator: A client of the worker's namespace that sees all tenants.
        worker: The worker.

    Returns:
        The newest, and how many more there are.
    """
    queue = worker.task_queue.replace("'", "''")
    query = f"ExecutionStatus = 'Running' AND TaskQueue = '{queue}'"
    found = [each async for each in operator.list_workflows(query, limit=MOST)]
    total = (await operator.count_workflows(query)).count if len(found) == MOST else len(found)
    return found, max(0, total - len(found))


class Check:
    """Replays executions against the code of a worker."""

    def __init__(self, operator: Client, worker: Worker) -> None:
        """Prepare.

        Args:
            operator: A client of the worker's namespace that sees all tenants.
            worker: The worker, which does not run yet.
        """
        self._operator = operator
        self._replayer = _replayer(worker)

    async def drift_of(self, execution: WorkflowExecution) -> Drifted | None:
        """Replay an execution; None where it can go on, or has ended meanwhile."""
        handle = self._operator.get_workflow_handle(execution.id, run_id=execution.run_id)
        events = [*(await handle.fetch_history()).events]
        failure = await self._failure(events, execution.id)
        if failure is None:
            return None
        place = await self._place(events, execution.id, failure)
        return Drifted(
            workflow_id=execution.id,
            run_id=execution.run_id,
            workflow_type=execution.workflow_type,
            namespace=execution.namespace,
            place=place,
            why=_reason(failure),
        )

    async def _failure(self, events: list[HistoryEvent], workflow_id: str) -> Exception | None:
        history = WorkflowHistory(workflow_id, events)
        result = await self._replayer.replay_workflow(history, raise_on_replay_failure=False)
        return result.replay_failure

    async def _place(self, events: list[HistoryEvent], workflow_id: str, failure: Exception) -> str:
        """The event that the code does not lead to: by the core's word, else by trying."""
        if named := _EVENT.search(str(failure)):
            return next((_shown(e) for e in events if e.event_id == int(named[1])), "")
        ends = [n for n, event in enumerate(events) if event.event_type == _STARTED]
        low, high = 0, len(ends)  # the first start of a task that cannot be reached
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
    """As the worker would run it, but without tracing: the last task is not a replay."""
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
