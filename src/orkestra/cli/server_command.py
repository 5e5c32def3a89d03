"""`orkestra server`: run the embedded Temporal server until Ctrl-C."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from orkestra.cli.options import (
    AsJson,
    load_config,
    log_core_to_python,
    name_option,
    takes,
    write_json,
    write_line,
)
from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from orkestra.devserver.server import port_problem
from orkestra.errors import ConfigurationError, DevServerError

DEFAULT_PORT: Final = 7233
"""The port on which clients look for Temporal by default."""

UI_PORT_OFFSET: Final = 1000
_LARGEST_PORT: Final = 65_535
_POLL_SECONDS: Final = 0.2


def port_option(help: str, *, smallest: int = 0) -> Any:
    """Declare an option that takes a port."""
    return typer.Option(min=smallest, max=_LARGEST_PORT, help=help)


@takes("settings", load_config)
def server(
    *,
    port: Annotated[int, port_option("Port for clients; 0 uses a free port.")] = DEFAULT_PORT,
    ui_port: Annotated[
        int | None, port_option("Port of the web UI.  [default: --port + 1000]", smallest=1)
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Run without the web UI.")] = False,
    db: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to keep all data in.  [default: in memory]"),
    ] = None,
    namespace: Annotated[
        list[str] | None, name_option("Namespace to create beside the default one; repeatable.")
    ] = None,
    settings: OrkestraConfig,
    as_json: AsJson = False,
) -> None:
    """Run a Temporal development server on this machine, until Ctrl-C.

    The server has the tenant search attribute, fairness between tenants and the web UI. It accepts
    connections from this machine only.

    Examples:
      orkestra server
      orkestra server --db temporal.db --namespace staging
      orkestra server --port 0 --headless --json
    """
    if headless and ui_port is not None:
        msg = f"--ui-port {ui_port} contradicts --headless: give only one of them"
        raise ConfigurationError(msg)
    if ui_port is None and not headless and 0 < port <= _LARGEST_PORT - UI_PORT_OFFSET:
        ui_port = port + UI_PORT_OFFSET
    # Checked here as well as by DevServer, so that the error names the option.
    require_free("--port", port, "use --port 0 for a free port")
    require_free("--ui-port", ui_port, "use another --ui-port, or --headless")
    try:
        embedded = DevServer(
            port=port or None,
            ui=not headless,
            ui_port=ui_port,
            db_filename=db,
            namespaces=[settings.temporal.namespace, *(namespace or ())],
            search_attribute=settings.tenancy.search_attribute,
        )
    except DevServerError as error:
        raise ConfigurationError(str(error)) from error
    log_core_to_python()
    asyncio.run(_serve(embedded, as_json=as_json))


def require_free(option: str, port: int | None, alternative: str) -> None:
    """Raise ConfigurationError if the port of an option is in use; 0 and None are any free one."""
    reason = port_problem(port) if port else None
    if reason is not None:
        msg = f"{option} {port} cannot be used: {reason}; free the port, or {alternative}"
        raise ConfigurationError(msg)


async def _serve(server: DevServer, *, as_json: bool) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run() made it
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    # Ctrl-C is the normal end, with exit code 0.
    with contextlib.suppress(asyncio.CancelledError):
        async with _started(server):
            _announce(server, as_json=as_json)
            await fail_when_ended(server)


async def fail_when_ended(server: DevServer) -> NoReturn:
    """Wait until the server's process has ended, which is an error."""
    while server.is_running:  # noqa: ASYNC110 - the process does not report its end
        await asyncio.sleep(_POLL_SECONDS)
    msg = f"the embedded server exited; its output ends with: {server.output}"
    raise DevServerError(msg)


@contextlib.asynccontextmanager
async def _started(server: DevServer) -> AsyncGenerator[None]:
    try:
        await server.start()
    except DevServerError as error:
        if server.output:
            raise
        # The process was never started, so an option or setting has to change.
        raise ConfigurationError(str(error)) from error
    try:
        yield
    finally:
        await server.stop()


def _announce(server: DevServer, *, as_json: bool) -> None:
    if as_json:
        namespaces = list(server.namespaces)
        write_json({"address": server.address, "ui": server.ui_url, "namespaces": namespaces})
        return
    write_line(f"Temporal server: {server.address}")
    if server.ui_url is not None:
        write_line(f"Temporal UI:     {server.ui_url}")
