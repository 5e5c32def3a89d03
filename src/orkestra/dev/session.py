"""`orkestra dev`: a server, a trace page, and a worker that restarts when its code changes.

A saved file starts a new worker process, which imports the new code while the old one still runs.
Only then does the old one stop, so there is no gap for an edit that cannot be imported, and never
two workers at once. `.orkestra/` keeps workflows and traces from run to run.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import shlex
import signal
import sys
import time
from collections.abc import (
    AsyncGenerator,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text
from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType] - of anyio

from orkestra.cli.options import (
    ConfigFile,
    duration_option,
    load_config,
    log_core_to_python,
    name_option,
    parse_name,
    plain,
)
from orkestra.cli.server_command import (
    DEFAULT_PORT,
    UI_PORT_OFFSET,
    fail_when_ended,
    port_option,
    require_free,
)
from orkestra.config import OrkestraConfig
from orkestra.dev.messages import (
    Checked,
    IncompatibleExecution,
    Loaded,
    Running,
    WorkerMessage,
)
from orkestra.dev.runner import IMPORT_FAILED
from orkestra.dev.worker_process import WorkerOptions, WorkerProcess
from orkestra.devserver import DevServer
from orkestra.errors import ConfigurationError, DevServerError
from orkestra.langfuse.langfuse_sink import require_langfuse

if TYPE_CHECKING:
    from orkestra.dev.tracepage import TracePage


_GRACE: Final = timedelta(seconds=5)


def dev(
    context: typer.Context,
    app: Annotated[
        str,
        typer.Argument(
            metavar="APP",
            parser=parse_name,
            help="Module or package with workflows, or module:function.",
        ),
    ],
    *,
    task_queue: Annotated[
        str | None, name_option("Task queue.  [default: TASK_QUEUE of the package, or its name]")
    ] = None,
    port: Annotated[int, port_option("Port of Temporal; 0 uses a free port.")] = DEFAULT_PORT,
    ui_port: Annotated[
        int, port_option("Port of the Temporal UI; 0 uses a free port.")
    ] = DEFAULT_PORT + UI_PORT_OFFSET,
    traces_port: Annotated[
        int, port_option("Port of the trace page; 0 uses a free port.")
    ] = DEFAULT_PORT + UI_PORT_OFFSET + 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the workflows and traces of earlier runs.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Run new code even if open executions cannot be replayed."),
    ] = False,
    grace: Annotated[
        timedelta,
        duration_option("Time for activities to finish when the worker stops.  [default: 5s]"),
    ] = _GRACE,
    config: ConfigFile = None,
) -> None:
    """Run an application during development, until Ctrl-C.

    Starts a Temporal server with its UI, a page that shows traces, and a worker that restarts when
    you save a source file. Workflows continue after a restart: the worker first replays their
    histories with the new code. If one cannot be replayed, the worker pauses and prints why.

    APP is a module or package that defines workflows and activities, or module:function with a
    function that returns workers. Workflows and traces are kept in .orkestra/ between runs. Traces
    go to Langfuse if its keys are set, otherwise to the trace page.

    Examples:
      orkestra dev my_app
      orkestra dev my_app.workflows --task-queue orders --fresh
      orkestra dev my_app.main:make_worker
    """
    _check_ports(port, ui_port, traces_port)
    settings = load_config(context, config)
    if settings.langfuse.is_on:
        require_langfuse()
    sys.path.insert(0, str(Path.cwd()))
    options = DevOptions(
        app=app,
        roots=find_application(app.partition(":")[0]),
        task_queue=task_queue,
        config=settings,
        config_file=config or context.find_root().obj,
        port=port or None,
        ui_port=ui_port or None,
        traces_port=traces_port,
        fresh=fresh,
        force=force,
        grace=grace,
    )
    log_core_to_python()
    asyncio.run(develop(options))


def _check_ports(port: int, ui_port: int, traces_port: int) -> None:
    given = {"--port": port, "--ui-port": ui_port, "--traces-port": traces_port}
    for option, number in given.items():
        require_free(option, number, f"use {option} 0 for a free port")
    chosen = [number for number in given.values() if number]
    if len(set(chosen)) < len(chosen):
        msg = f"{', '.join(given)} are {', '.join(map(str, given.values()))}: use different ports"
        raise ConfigurationError(msg)


_STATE: Final = ".orkestra"
_CONFIG: Final = Path("orkestra.toml")
_CANCELLATION_TIMEOUT: Final = timedelta(seconds=2)


@dataclass(frozen=True, kw_only=True)
class DevOptions:
    """Options of `orkestra dev`; ports of None or 0 are free ones."""

    app: str
    roots: list[Path]
    task_queue: str | None
    config: OrkestraConfig
    config_file: Path | None
    port: int | None
    ui_port: int | None
    traces_port: int
    fresh: bool
    force: bool
    grace: timedelta


async def develop(options: DevOptions) -> None:
    """Run everything until SIGINT or SIGTERM; a second signal ends it at once."""
    log = DevLog()
    async with AsyncExitStack() as stack:
        state = stack.enter_context(open_state(Path(_STATE), fresh=options.fresh))
        page = _open_page(stack, state, options)
        server = await stack.enter_async_context(_server(state, options))
        log.write(_addresses(server, page, options.config), style="bold")
        config_file = (options.config_file or _CONFIG).absolute()
        watcher = SourceWatcher(options.roots, also=[config_file])
        worker = WorkerOptions(
            app=options.app,
            task_queue=options.task_queue,
            config_file=options.config_file,
            force=options.force,
            environment=_environment(state, options, server, page),
            # The sum of what a worker does at its end, each with its own limit, and some reserve.
            end_timeout=options.grace
            + _CANCELLATION_TIMEOUT
            + options.config.langfuse.flush_timeout
            + timedelta(seconds=3),
        )
        supervisor = ReloadingWorker(worker, watcher, log)
        await _until_signal(log, supervisor, watcher, server)


async def _until_signal(
    log: "DevLog", supervisor: "ReloadingWorker", watcher: "SourceWatcher", server: DevServer
) -> None:
    working = asyncio.ensure_future(
        first_to_end(supervisor.run(), watcher.run(), fail_when_ended(server))
    )
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            log.write("stopping: press Ctrl-C again to stop at once")
        working.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    with contextlib.suppress(asyncio.CancelledError):
        await working
    # The first signal is a normal end: exit code 0, not 130.
    if signals > 1:
        raise KeyboardInterrupt


def _open_page(
    stack: AsyncExitStack, state: "StateDirectory", options: DevOptions
) -> "TracePage | None":
    """Open the trace page, unless the traces go to Langfuse."""
    langfuse = options.config.langfuse
    if langfuse.is_on or langfuse.enabled is False or not importlib.util.find_spec("langfuse"):
        return None
    from orkestra.dev.tracepage import TracePage  # noqa: PLC0415 - not always needed

    return stack.enter_context(TracePage(state.traces, port=options.traces_port))


@asynccontextmanager
async def _server(state: "StateDirectory", options: DevOptions) -> AsyncGenerator[DevServer]:
    temporal = options.config.temporal
    own = (tenant.namespace for tenant in options.config.tenants.values())
    try:
        server = DevServer(
            port=options.port,
            ui=True,
            ui_port=options.ui_port,
            db_filename=state.temporal,
            namespaces=[temporal.namespace, *filter(None, own)],
            search_attribute=options.config.tenancy.search_attribute,
        )
        await server.start()
    except DevServerError as error:
        msg = f"{error} (--fresh deletes the state in {_STATE}/)"
        raise ConfigurationError(msg) from error
    try:
        yield server
    finally:
        await server.stop()


def _addresses(server: DevServer, page: "TracePage | None", config: OrkestraConfig) -> str:
    if page is not None:
        traces = page.url
    elif config.langfuse.is_on:
        traces = config.langfuse.base_url
    elif config.langfuse.enabled is False:
        traces = "off"
    else:
        traces = 'off (pip install "orkestra-core[langfuse]")'
    return f"Temporal {server.address}   UI {server.ui_url}   traces {traces}"


def _environment(
    state: "StateDirectory", options: DevOptions, server: DevServer, page: "TracePage | None"
) -> Mapping[str, str]:
    """Make the environment of the worker, which overrides the configuration that it loads."""
    # TEMPORAL_API_KEY and its like are for the user's real server, not for this one.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
    if page is not None:
        # The SDK's older name of the base URL would send traces elsewhere.
        inherited = {k: v for k, v in inherited.items() if k != "LANGFUSE_HOST"}
        inherited |= {**page.environment, "LANGFUSE_FLUSH_INTERVAL": "0.5"}
    temporal = options.config.temporal
    if temporal.has_api_key or temporal.tls is not None:
        # orkestra.toml may be written for production; the development server has no TLS.
        inherited["ORKESTRA_TEMPORAL__TLS__DISABLED"] = "true"
    return {
        **inherited,
        "ORKESTRA_TEMPORAL__ADDRESS": server.address,
        "ORKESTRA_TEMPORAL__NAMESPACE": temporal.namespace,
        "ORKESTRA_WORKER__CANCELLATION_TIMEOUT": f"{_CANCELLATION_TIMEOUT.total_seconds()}s",
        "ORKESTRA_WORKER__GRACEFUL_SHUTDOWN_TIMEOUT": f"{options.grace.total_seconds()}s",
        "PYTHONUNBUFFERED": "1",
        "TEMPORAL_ADDRESS": server.address,
        "TEMPORAL_CONFIG_FILE": str(state.profile.absolute()),
        "TEMPORAL_NAMESPACE": temporal.namespace,
    }


_SLOW_STOP_SECONDS: Final = 0.5


class ReloadingWorker:
    """One worker process at a time, which runs the code that was saved last."""

    def __init__(self, options: WorkerOptions, watcher: "SourceWatcher", log: "DevLog") -> None:
        self._options = options
        self._watcher = watcher
        self._log = log
        self._started_at = 0.0

    async def run(self) -> None:
        """Run until cancelled; the worker then finishes its tasks."""
        worker: WorkerProcess | None = None
        try:
            while True:
                # The old worker still runs: importing the new code takes longest.
                successor = await self._start()
                worker, predecessor = successor, worker
                if predecessor is not None:
                    await self._retire(predecessor)
                # Saved again meanwhile: start over without letting this one run.
                if not self._watcher.has_changes:
                    worker.go()
                    await self._until_changed(worker)
                await self._changed()
        finally:
            if worker is not None:
                await self._retire(worker)

    async def _start(self) -> WorkerProcess:
        self._started_at = time.monotonic()
        return await WorkerProcess.start(
            self._options, on_line=self._log.forward, on_message=self._on_message
        )

    async def _retire(self, worker: WorkerProcess) -> None:
        ending = asyncio.create_task(worker.end(self._options.end_timeout))
        try:
            done, _ = await asyncio.wait([ending], timeout=_SLOW_STOP_SECONDS)
            if not done:
                self._log.write("waiting for the worker to finish its activities")
            # Shielded: a second Ctrl-C kills the worker instead of leaving it behind.
            if not await asyncio.shield(ending):
                self._log.write("the worker did not stop in time and was killed", style="yellow")
        except asyncio.CancelledError:
            await worker.kill()
            await ending
            raise

    async def _until_changed(self, worker: WorkerProcess) -> None:
        """Wait for the next change; report a worker that exits first, unless it did so itself."""
        change = asyncio.create_task(self._watcher.wait())
        end = asyncio.create_task(worker.wait())
        try:
            await asyncio.wait([change, end], return_when=asyncio.FIRST_COMPLETED)
            if end.done() and not change.done():
                # An import error has been reported by its message.
                if end.result() != IMPORT_FAILED:
                    self._log.write(format_ended(end.result()), style="red")
                await change
        finally:
            await _cancelled(change, end)

    async def _changed(self) -> None:
        files = await self._watcher.next()
        _forget_bytecode(files)
        self._log.write(format_changed(files))

    def _on_message(self, message: WorkerMessage) -> None:
        match message:
            case Loaded():
                self._watcher.add_files(message.files)
                if message.trouble is not None:
                    self._log.write(format_import_error(message.trouble), style="red")
            case Checked():
                style = "red" if message.count else "yellow" if message.skipped else ""
                self._log.write(format_checked(message, force=self._options.force), style=style)
            case Running():
                seconds = time.monotonic() - self._started_at
                self._log.write(format_running(message, seconds), style="green")


def _forget_bytecode(files: Sequence[Path]) -> None:
    """Delete bytecode: Python compares size and second of the source, which two edits can share."""
    for file in files:
        Path(cache_from_source(file)).unlink(missing_ok=True)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_to_end(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run several coroutines until the first of them ends or fails, and cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancelled(*tasks)


_MOST_NAMED_FILES: Final = 3


def format_changed(files: Sequence[Path]) -> str:
    """Format the report of saved files."""
    names = [_relative(file) for file in files]
    shown = ", ".join(names[:_MOST_NAMED_FILES])
    more = f" and {len(names) - _MOST_NAMED_FILES} more" if len(names) > _MOST_NAMED_FILES else ""
    return f"{shown}{more} changed: reloading"


def format_import_error(trouble: str) -> str:
    """Format the report that the application cannot be imported."""
    return f"{trouble}\nworker stopped: save a file to try again"


def format_ended(code: int) -> str:
    """Format the report that the worker exited."""
    cause = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"the worker exited {cause}: save a file to start it again"


def format_running(message: Running, seconds: float) -> str:
    """Format the report that the worker runs."""
    names = ", ".join(repr(queue) for queue in message.queues)
    types = f"{_count(message.workflows, 'workflow')}, {_count(message.activities, 'activity')}"
    queues = "task queue" if len(message.queues) == 1 else "task queues"
    return f"running {types} on {queues} {names} ({seconds:.1f} s)"


def format_checked(found: Checked, *, force: bool) -> str:
    """Format the report of the replay: which executions cannot continue, and how to fix it."""
    lines: list[str] = []
    if not found.count and found.replayed:
        lines.append(f"{_count(found.replayed, 'open execution')} replayed with the new code")
    if found.count:
        executions = _count(found.count, "open execution")
        lines.append(f"NON-DETERMINISTIC CHANGE: {executions} cannot continue with this code")
    lines += [
        f"  {each.workflow_type} {each.workflow_id!r} at {each.place}: {each.reason}"
        for each in found.incompatible
    ]
    if found.count > len(found.incompatible):
        lines.append(f"  and {found.count - len(found.incompatible)} more")
    if found.skipped:
        skipped = _count(found.skipped, "open execution")
        lines.append(f"{skipped} not replayed: the new code may be incompatible")
    if found.count and force:
        lines.append("worker started anyway (--force): their tasks fail until you fix this")
    elif found.count:
        lines.append(
            "worker paused until you fix this: undo the change, guard it with workflow.patched(),"
            " or terminate the executions:"
        )
        lines.append(f"  {_terminate_command(found.incompatible[0])}")
    return "\n".join(lines)


def _terminate_command(execution: IncompatibleExecution) -> str:
    namespace = "" if execution.namespace == "default" else f" --namespace {execution.namespace}"
    return f"orkestra terminate {shlex.quote(execution.workflow_id)} --all-tenants{namespace}"


def _relative(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number} {noun}s"


_QUIET_MS: Final = 100
_LONGEST_WAIT_MS: Final = 1000


def find_application(name: str) -> list[Path]:
    """Find the folders of a top-level package, or the file of a module, without importing it."""
    top = name.partition(".")[0]
    try:
        # Of the top package only: for a module inside, `find_spec` would import its parents.
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    if spec is not None and spec.has_location and spec.origin:
        return [Path(spec.origin)]
    msg = f"module {name!r} does not exist: give the dotted name of an importable module"
    raise ConfigurationError(msg)


class SourceWatcher:
    """Changes of source files: modules below the folders among `roots`, and other files."""

    def __init__(self, roots: Collection[Path], *, also: Collection[Path] = ()) -> None:
        self._folders = [root for root in roots if not root.is_file()]
        self._files = {root for root in (*roots, *also) if root not in self._folders}
        self._changed: dict[Path, None] = {}
        self._known: dict[Path, int] = {}
        self._noticed = asyncio.Event()
        self._restart = asyncio.Event()

    def add_files(self, files: Iterable[str]) -> None:
        """Watch more files."""
        new = {Path(file) for file in files} - self._files
        # awatch() takes its folders once, so it has to be started again.
        if any(not self._is_below(file) for file in new):
            self._restart.set()
        self._files |= new

    @property
    def has_changes(self) -> bool:
        """True if there are changes that `next()` has not returned."""
        return bool(self._changed)

    async def wait(self) -> None:
        """Wait until there are changes."""
        await self._noticed.wait()

    async def next(self) -> list[Path]:
        """Wait for changes, and return the files that changed since the last call."""
        await self._noticed.wait()
        self._noticed.clear()
        changed = list(self._changed)
        self._changed.clear()
        return changed

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            # Before the folders are listed: changes from here on are found by their time.
            began = time.time_ns()
            self._restart.clear()
            places = self._watched_folders()
            async for changes in awatch(
                *places,
                watch_filter=self._is_relevant,
                step=_QUIET_MS,
                debounce=_LONGEST_WAIT_MS,
                stop_event=self._restart,
                # Recursive, a data folder below the sources could use up all watches of inotify.
                recursive=False,
            ):
                self._notice(Path(path) for _, path in changes)
                if self._watched_folders() != places:
                    break
            # Files that were saved between two watches.
            self._notice(file for file in self._all_files() if _modified(file) > began)

    def _notice(self, paths: Iterable[Path]) -> None:
        for path in paths:
            # The same change can be noticed twice, and many editors write a file twice.
            if self._known.get(path) != (modified := _modified(path)):
                self._known[path] = modified
                self._changed[path] = None
        if self._changed:
            self._noticed.set()

    def _is_relevant(self, change: Change, path: str) -> bool:
        file = Path(path)
        if file in self._files:
            return True
        if file.suffix == ".py":
            return self._is_below(file)
        return change is Change.added and self._is_below(file) and _is_source_folder(file)

    def _is_below(self, file: Path) -> bool:
        return any(file.is_relative_to(folder) for folder in self._folders)

    def _watched_folders(self) -> set[Path]:
        """List the folders to watch, each alone: other folders below them can be huge."""
        places = {file.parent for file in self._files}
        for folder in self._folders:
            places.update(_source_folders(folder))
        return {place for place in places if place.is_dir()}

    def _all_files(self) -> Iterator[Path]:
        for place in self._watched_folders():
            with contextlib.suppress(OSError):
                yield from (
                    f for f in place.iterdir() if self._is_relevant(Change.modified, str(f))
                )


def _source_folders(folder: Path) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        yield place
        with contextlib.suppress(OSError):
            waiting += filter(_is_source_folder, place.iterdir())


def _is_source_folder(path: Path) -> bool:
    # Only importable folders: not `.venv`, `.git` or `node-modules`.
    return path.name.isidentifier() and path.name != "__pycache__" and path.is_dir()


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


_STYLES: Final = {"orkestra": "bold", "worker": "cyan"}
_LABEL_COLUMNS: Final = 8


class DevLog:
    """One log on standard output: the time, the writer and the text of each line."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def write(self, text: str, *, style: str = "") -> None:
        """Write lines of `orkestra dev` itself."""
        for line in text.splitlines():
            self._print("orkestra", Text(plain(line), style))

    def forward(self, line: str) -> None:
        """Write a line of the application, with its colours."""
        self._print("worker", Text.from_ansi(line))

    def _print(self, writer: str, text: Text) -> None:
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(
            Text.assemble(
                (now, "dim"), " ", (writer.ljust(_LABEL_COLUMNS), _STYLES[writer]), " ", text
            )
        )


_GITIGNORE: Final = "# State of `orkestra dev`. Do not commit it.\n*\n"


@dataclass(frozen=True)
class StateDirectory:
    """`.orkestra/`: the files that are kept between runs."""

    directory: Path

    @property
    def temporal(self) -> Path:
        """Database of the Temporal server."""
        return self.directory / "temporal.db"

    @property
    def traces(self) -> Path:
        """Database of the trace page."""
        return self.directory / "traces.db"

    @property
    def profile(self) -> Path:
        """An empty profile, in place of the user's own."""
        return self.directory / "temporal.toml"


@contextmanager
def open_state(directory: Path, *, fresh: bool) -> Generator[StateDirectory]:
    """Create and lock the directory; delete the databases of earlier runs if `fresh`."""
    state = StateDirectory(directory)
    try:
        directory.mkdir(exist_ok=True)
        (directory / ".gitignore").write_text(_GITIGNORE)
        state.profile.write_text("")
        lock = (directory / "lock").open("w")
    except OSError as error:
        msg = f"cannot write to {str(directory)!r}: {error}"
        raise ConfigurationError(msg) from error
    with lock:
        try:
            # The lock of a killed process is released; a file with its PID would be stale.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"{str(directory)!r} is in use by another `orkestra dev`: stop that one first"
            raise ConfigurationError(msg) from error
        if fresh:
            for database in (state.temporal, state.traces):
                # With the `-wal` and `-shm` files of SQLite.
                for file in directory.glob(f"{database.name}*"):
                    file.unlink()
        yield state
