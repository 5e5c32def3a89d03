"""The command: options in, exit code out.

Everything that `orkestra dev` starts, and ends: server, trace page, worker.

Runs the worker, and runs it anew whenever its code changes.

What is said of the worker and its code.

One log for everything: a time, who speaks, and what it says.

`.orkestra/`: what is kept from one run to the next, beside the application.

Which files make up an application, and when they change.
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
    parse_name,
    plain,
)
from orkestra.config import OrkestraConfig
from orkestra.dev.messages import Checked, Drifted, Loaded, Running, Told
from orkestra.dev.runner import BROKEN
from orkestra.dev.worker_process import WorkerOptions, WorkerProcess
from orkestra.devserver import DevServer
from orkestra.devserver.server import why_not
from orkestra.errors import ConfigurationError, DevServerError
from orkestra.langfuse.langfuse_sink import require_langfuse

if TYPE_CHECKING:
    from orkestra.dev.tracepage import TracePage


_PORT: Final = 7233  # where clients look when nobody tells them
_LAST_PORT: Final = 65_535
_GRACE: Final = timedelta(seconds=5)


def dev(
    context: typer.Context,
    app: Annotated[
        str,
        typer.Argument(
            metavar="APP",
            parser=parse_name,
            help="A module or package with workflows, or module:function.",
        ),
    ],
    *,
    task_queue: Annotated[
        str | None,
        typer.Option(
            parser=parse_name,
            metavar="NAME",
            help="Task queue.  [default: TASK_QUEUE of the package, or its name]",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port of Temporal; 0 takes a free one.")
    ] = _PORT,
    ui_port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port of its web UI; 0 takes a free one.")
    ] = _PORT + 1000,
    traces_port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port of the trace page; 0: a free one.")
    ] = _PORT + 1001,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the workflows and traces of earlier runs.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Run code that open executions cannot go on with, too."),
    ] = False,
    grace: Annotated[
        timedelta,
        duration_option("5s", help="How long activities may go on when the worker is to end."),
    ] = _GRACE,
    config: ConfigFile = None,
) -> None:
    """Run an application while it is being written, until Ctrl-C.

    Starts a Temporal server with its UI, a page that shows traces, and a worker that starts anew
    whenever a source file is saved. Workflows go on across that: first their histories are replayed
    against the new code, and where one cannot go on, the worker waits and says which and why.

    APP is a module or package whose workflows and activities are found, or module:function with a
    function that returns workers. Workflows and traces are kept in .orkestra/ from run to run.
    Traces go to Langfuse where its keys are set, else to the page.

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
    options = Options(
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
        reason = why_not(number) if number else None
        if reason is not None:
            msg = (
                f"{option} {number} cannot be used: {reason}: free it; {option} 0 takes a free one"
            )
            raise ConfigurationError(msg)
    chosen = [number for number in given.values() if number]
    if len(set(chosen)) < len(chosen):
        msg = f"{', '.join(given)} are {', '.join(map(str, given.values()))}: use different ports"
        raise ConfigurationError(msg)


_NAMED: Final = 3


def format_changed(files: Sequence[Path]) -> str:
    """That files were saved."""
    names = [_relative(file) for file in files]
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{shown}{more} changed: reloading"


def format_broken(trouble: str) -> str:
    """That the application cannot be loaded."""
    return f"{trouble}\nnot running: the next save is tried at once"


def format_ended(code: int) -> str:
    """That the worker ended by itself."""
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"the worker ended {how}: the next save starts it again"


def format_running(message: Running, seconds: float) -> str:
    """That the worker runs."""
    queues = ", ".join(repr(queue) for queue in message.queues)
    what = f"{_count(message.workflows, 'workflow')}, {_count(message.activities, 'activity')}"
    where = "task queue" if len(message.queues) == 1 else "task queues"
    return f"running {what} on {where} {queues} ({seconds:.1f} s)"


def format_unharmed(count: int) -> str:
    """That the open executions can go on."""
    return f"{_count(count, 'open execution')} replayed: the new code can go on with all of them"


def format_checked(found: Checked, *, force: bool) -> str:
    """Which open executions cannot go on, and what to do."""
    lines: list[str] = []
    if found.count:
        lines.append(
            f"NON-DETERMINISTIC EDIT: {_count(found.count, 'open execution')} cannot go on with"
            " this code"
        )
    lines += [
        f"  {each.workflow_type} {each.workflow_id!r} at {each.place}: {each.why}"
        for each in found.drifted
    ]
    if found.count > len(found.drifted):
        lines.append(f"  and {found.count - len(found.drifted)} more")
    if found.left_out:
        left = _count(found.left_out, "open execution")
        lines.append(f"{left} not replayed: the new code may not suit them")
    if found.count and force:
        lines.append("running all the same (--force): their tasks will fail until this is mended")
    elif found.count:
        lines.append(
            "not running until this is mended: undo the edit, guard it by workflow.patched(), or"
            " end them:"
        )
        lines.append(f"  {_terminate(found.drifted[0])}")
    return "\n".join(lines)


def _terminate(drifted: Drifted) -> str:
    namespace = "" if drifted.namespace == "default" else f" --namespace {drifted.namespace}"
    return f"orkestra terminate {shlex.quote(drifted.workflow_id)} --all-tenants{namespace}"


def _relative(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what.removesuffix('y')}ies" if what.endswith("y") else f"{number} {what}s"


_STYLES: Final = {"orkestra": "bold", "worker": "cyan"}
_WIDTH: Final = 8


class Log:
    """Writes lines to standard output, with colours where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str, *, style: str = "") -> None:
        """Say something ourselves, of one or several lines."""
        for line in text.splitlines():
            self._write("orkestra", Text(plain(line), style))

    def pass_on(self, line: str) -> None:
        """Pass on a line that the application wrote, colours included."""
        self._write("worker", Text.from_ansi(line))

    def _write(self, who: str, text: Text) -> None:
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(
            Text.assemble((now, "dim"), " ", (who.ljust(_WIDTH), _STYLES[who]), " ", text)
        )


_IGNORE: Final = "# Orkestra's own state: nothing here belongs into a repository.\n*\n"


@dataclass(frozen=True)
class State:
    """The files of a state directory.

    Attributes:
        directory: Where they are.
    """

    directory: Path

    @property
    def temporal(self) -> Path:
        """The Temporal server's database."""
        return self.directory / "temporal.db"

    @property
    def traces(self) -> Path:
        """The trace page's database."""
        return self.directory / "traces.db"

    @property
    def profile(self) -> Path:
        """An empty profile, in place of the one that the `temporal` command uses."""
        return self.directory / "temporal.toml"


@contextmanager
def open_state(directory: Path, *, fresh: bool) -> Generator[State]:
    """Make the directory where there is none, and keep others out of it.

    Args:
        directory: Where the state is.
        fresh: Forget what an earlier run left there.

    Yields:
        Its files.

    Raises:
        ConfigurationError: The directory is in use, or cannot be used.
    """
    state = State(directory)
    try:
        directory.mkdir(exist_ok=True)
        (directory / ".gitignore").write_text(_IGNORE)
        state.profile.write_text("")
        lock = (directory / "lock").open("w")
    except OSError as error:
        msg = f"{str(directory)!r} cannot hold the state of the server: {error}"
        raise ConfigurationError(msg) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"{str(directory)!r} is in use by another `orkestra dev`: end that one first"
            raise ConfigurationError(msg) from error
        if fresh:
            for database in (state.temporal, state.traces):
                for file in directory.glob(f"{database.name}*"):
                    file.unlink()
        yield state


_SETTLING_MS: Final = 100
_LONGEST_MS: Final = 1000
_SUFFIX: Final = ".py"


def find_application(name: str) -> list[Path]:
    """Find the folders of a module or package, without importing it.

    Args:
        name: Its dotted name.

    Returns:
        The folders of its top-level package, or the file of its top-level module.

    Raises:
        ConfigurationError: There is no such module.
    """
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    if spec is not None and spec.has_location and spec.origin:
        return [Path(spec.origin)]
    msg = f"module {name!r} does not exist: give a dotted name that can be imported from here"
    raise ConfigurationError(msg)


class Watcher:
    """Notices changes of source files."""

    def __init__(self, roots: Collection[Path], *, also: Collection[Path] = ()) -> None:
        """Watch; nothing is noticed until `run()` runs.

        Args:
            roots: Folders, whose modules count at any depth, and single files.
            also: More files.
        """
        self._folders = [root for root in roots if not root.is_file()]
        self._files = {root for root in (*roots, *also) if root not in self._folders}
        self._changed: dict[Path, None] = {}
        self._known: dict[Path, int] = {}
        self._noticed = asyncio.Event()
        self._restart = asyncio.Event()

    def add_files(self, files: Iterable[str]) -> None:
        """Watch more files, where they are not below the folders already."""
        new = {Path(file) for file in files} - self._files
        if any(not self._is_below(file) for file in new):
            self._restart.set()
        self._files |= new

    @property
    def has_changes(self) -> bool:
        """Whether there are changes that `next()` has not told of."""
        return bool(self._changed)

    async def wait(self) -> None:
        """Wait until there are changes."""
        await self._noticed.wait()

    async def next(self) -> list[Path]:
        """Wait for changes, and return the files of all since the last time."""
        await self._noticed.wait()
        self._noticed.clear()
        changed = list(self._changed)
        self._changed.clear()
        return changed

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began = time.time_ns()
            self._restart.clear()
            places = self._places()
            async for changes in awatch(
                *places,
                watch_filter=self._counts,
                step=_SETTLING_MS,
                debounce=_LONGEST_MS,
                stop_event=self._restart,
                recursive=False,
            ):
                self._notice(Path(path) for _, path in changes)
                if self._places() != places:
                    break
            # What was saved between two watches.
            self._notice(file for file in self._all_files() if _modified(file) > began)

    def _notice(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if self._known.get(path) != (modified := _modified(path)):
                self._known[path] = modified
                self._changed[path] = None
        if self._changed:
            self._noticed.set()

    def _counts(self, change: Change, path: str) -> bool:
        file = Path(path)
        if file in self._files:
            return True
        if file.suffix == _SUFFIX:
            return self._is_below(file)
        return change is Change.added and self._is_below(file) and _is_source_folder(file)

    def _is_below(self, file: Path) -> bool:
        return any(file.is_relative_to(folder) for folder in self._folders)

    def _places(self) -> set[Path]:
        """Folders to watch, each by itself: what lies among them may be huge."""
        places = {file.parent for file in self._files}
        for folder in self._folders:
            places.update(_source_folders(folder))
        return {place for place in places if place.is_dir()}

    def _all_files(self) -> Iterator[Path]:
        for place in self._places():
            with contextlib.suppress(OSError):
                yield from (f for f in place.iterdir() if self._counts(Change.modified, str(f)))


def _source_folders(folder: Path) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        yield place
        with contextlib.suppress(OSError):
            waiting += filter(_is_source_folder, place.iterdir())


def _is_source_folder(path: Path) -> bool:
    return path.name.isidentifier() and path.name != "__pycache__" and path.is_dir()


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


_SLOW: Final = 0.5


class Supervisor:
    """Keeps one worker running on the code as it was last saved."""

    def __init__(self, options: WorkerOptions, watcher: Watcher, log: Log) -> None:
        """Prepare; nothing runs until `run()` does.

        Args:
            options: How workers are to run.
            watcher: Notices changes.
            log: Where everything is told.
        """
        self._options = options
        self._watcher = watcher
        self._log = log
        self._began = 0.0

    async def run(self) -> None:
        """Run until cancelled; the worker then finishes what it does."""
        worker: WorkerProcess | None = None
        try:
            while True:
                successor = await self._start()
                worker, predecessor = successor, worker
                if predecessor is not None:
                    await self._retire(predecessor)
                if not self._watcher.has_changes:
                    worker.go()
                    await self._until_changed(worker)
                await self._changed()
        finally:
            if worker is not None:
                await self._retire(worker)

    async def _start(self) -> WorkerProcess:
        self._began = time.monotonic()
        return await WorkerProcess.start(
            self._options, on_line=self._log.pass_on, on_message=self._hear
        )

    async def _retire(self, worker: WorkerProcess) -> None:
        ending = asyncio.create_task(worker.end(self._options.patience))
        try:
            done, _ = await asyncio.wait([ending], timeout=_SLOW)
            if not done:
                self._log.say("waiting for the worker to finish what it does")
            if not await asyncio.shield(ending):
                self._log.say("the worker did not finish in time and was killed", style="yellow")
        except asyncio.CancelledError:
            await worker.kill()
            await ending
            raise

    async def _until_changed(self, worker: WorkerProcess) -> None:
        """Wait for the next change; a worker that ends before has said why, or is told of."""
        change = asyncio.create_task(self._watcher.wait())
        end = asyncio.create_task(worker.wait())
        try:
            await asyncio.wait([change, end], return_when=asyncio.FIRST_COMPLETED)
            if end.done() and not change.done():
                if end.result() != BROKEN:
                    self._log.say(format_ended(end.result()), style="red")
                await change
        finally:
            await _cancelled(change, end)

    async def _changed(self) -> None:
        files = await self._watcher.next()
        _forget_bytecode(files)
        self._log.say(format_changed(files))

    def _hear(self, message: Told) -> None:
        match message:
            case Loaded():
                self._watcher.add_files(message.files)
                if message.trouble is not None:
                    self._log.say(format_broken(message.trouble), style="red")
            case Checked():
                if message.count or message.left_out:
                    style = "red" if message.count else "yellow"
                    self._log.say(format_checked(message, force=self._options.force), style=style)
                elif message.replayed:
                    self._log.say(format_unharmed(message.replayed))
            case Running():
                took = time.monotonic() - self._began
                self._log.say(format_running(message, took), style="green")


def _forget_bytecode(files: Sequence[Path]) -> None:
    """Python tells stale bytecode by the source's size and second: two edits can share both."""
    for file in files:
        Path(cache_from_source(file)).unlink(missing_ok=True)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_to_end(*works: Coroutine[Any, Any, Any]) -> None:
    """Do several things until the first of them ends or fails, and cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancelled(*tasks)


_STATE: Final = ".orkestra"
_CONFIG: Final = Path("orkestra.toml")
_LOOK: Final = 0.2
_CANCELLATION: Final = timedelta(seconds=2)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for.

    Attributes:
        app: The application, as on the command line.
        roots: Its folders, or its file.
        task_queue: Its queue, where one was chosen.
        config: The configuration.
        config_file: Where it was read, if one was named.
        port: Port of the server; None takes a free one.
        ui_port: Port of its UI; None takes a free one.
        traces_port: Port of the trace page; 0 takes a free one.
        fresh: Forget earlier runs.
        force: Run code that open executions cannot go on with.
        grace: How long activities may go on when the worker is to end.
    """

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


async def develop(options: Options) -> None:
    """Run everything until SIGINT or SIGTERM; a second one ends it at once.

    Raises:
        ConfigurationError: Something could not be started that was asked for.
        DevServerError: The server ended.
        KeyboardInterrupt: A second signal came.
    """
    log = Log()
    async with AsyncExitStack() as stack:
        state = stack.enter_context(open_state(Path(_STATE), fresh=options.fresh))
        page = _open_page(stack, state, options)
        server = await stack.enter_async_context(_server(state, options))
        log.say(_addresses(server, page, options.config), style="bold")
        config_file = (options.config_file or _CONFIG).absolute()
        watcher = Watcher(options.roots, also=[config_file])
        worker = WorkerOptions(
            app=options.app,
            task_queue=options.task_queue,
            config_file=options.config_file,
            force=options.force,
            environment=_environment(state, options, server, page),
            patience=options.grace
            + _CANCELLATION
            + options.config.langfuse.flush_timeout
            + timedelta(seconds=3),
        )
        supervisor = Supervisor(worker, watcher, log)
        await _until_signal(log, supervisor, watcher, server)


async def _until_signal(
    log: Log, supervisor: Supervisor, watcher: Watcher, server: DevServer
) -> None:
    working = asyncio.ensure_future(first_to_end(supervisor.run(), watcher.run(), _watch(server)))
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            log.say("stopping: Ctrl-C again ends everything at once")
        working.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    with contextlib.suppress(asyncio.CancelledError):
        await working
    if signals > 1:
        raise KeyboardInterrupt


async def _watch(server: DevServer) -> None:
    while server.is_running:  # noqa: ASYNC110 - nothing tells when a process ends
        await asyncio.sleep(_LOOK)
    msg = f"the embedded server ended by itself; its output ends with: {server.output}"
    raise DevServerError(msg)


def _open_page(stack: AsyncExitStack, state: State, options: Options) -> "TracePage | None":
    """The page, where traces would go nowhere else."""
    langfuse = options.config.langfuse
    if langfuse.is_on or langfuse.enabled is False or not importlib.util.find_spec("langfuse"):
        return None
    from orkestra.dev.tracepage import TracePage  # noqa: PLC0415 - only where it is used

    return stack.enter_context(TracePage(state.traces, port=options.traces_port))


@asynccontextmanager
async def _server(state: State, options: Options) -> AsyncGenerator[DevServer]:
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
        msg = f"{error} (--fresh forgets what is kept in {_STATE}/)"
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
    state: State, options: Options, server: DevServer, page: "TracePage | None"
) -> Mapping[str, str]:
    """What the worker is told beside the configuration that it reads itself."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
    if page is not None:
        inherited = {k: v for k, v in inherited.items() if k != "LANGFUSE_HOST"}
        inherited |= {**page.environment, "LANGFUSE_FLUSH_INTERVAL": "0.5"}
    temporal = options.config.temporal
    if temporal.has_api_key or temporal.tls is not None:
        inherited["ORKESTRA_TEMPORAL__TLS__DISABLED"] = "true"
    return {
        **inherited,
        "ORKESTRA_TEMPORAL__ADDRESS": server.address,
        "ORKESTRA_TEMPORAL__NAMESPACE": temporal.namespace,
        "ORKESTRA_WORKER__CANCELLATION_TIMEOUT": f"{_CANCELLATION.total_seconds()}s",
        "ORKESTRA_WORKER__GRACEFUL_SHUTDOWN_TIMEOUT": f"{options.grace.total_seconds()}s",
        "PYTHONUNBUFFERED": "1",
        "TEMPORAL_ADDRESS": server.address,
        "TEMPORAL_CONFIG_FILE": str(state.profile.absolute()),
        "TEMPORAL_NAMESPACE": temporal.namespace,
    }
