"""Everything that `orkestra dev` starts, and ends: server, trace page, worker."""

import asyncio
import contextlib
import importlib.util
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orkestra.cli.dev.log import Log
from orkestra.cli.dev.process import WorkerOptions
from orkestra.cli.dev.state import State, open_state
from orkestra.cli.dev.supervisor import Supervisor, first_to_end
from orkestra.cli.dev.watching import Watcher
from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from orkestra.errors import ConfigurationError, DevServerError

if TYPE_CHECKING:
    from orkestra.tracepage import TracePage

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
    from orkestra.tracepage import TracePage  # noqa: PLC0415 - only where it is used

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
