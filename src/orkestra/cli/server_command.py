"""`orkestra server`: the embedded Temporal server, until Ctrl-C."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Final

import typer

from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    load_config,
    log_core_to_python,
    parse_name,
    write_json,
    write_line,
)
from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from orkestra.devserver.server import why_not
from orkestra.errors import ConfigurationError, DevServerError

_PORT: Final = 7233  # where clients look when nobody tells them
_UI_OFFSET: Final = 1000
_LAST_PORT: Final = 65_535
_LOOK: Final = 0.2


def server(
    context: typer.Context,
    *,
    port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="Port for clients; 0 takes a free one.")
    ] = _PORT,
    ui_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=_LAST_PORT, help="Port of the web UI.  [default: the other + 1000]"
        ),
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Leave the web UI out.")] = False,
    db: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep everything in a file.  [default: in memory]"),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            parser=parse_name, metavar="NAME", help="A namespace besides default; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Run a Temporal server for development on this machine, until Ctrl-C.

    It has the tenant search attribute, fairness between tenants and the web UI, and can be reached
    from this machine only.

    Examples:
      orkestra server
      orkestra server --db temporal.db --namespace staging
      orkestra server --port 0 --headless --json
    """
    settings = load_config(context, config)
    namespaces = [settings.temporal.namespace, *(namespace or ())]
    embedded = _make(settings, namespaces, port, ui_port, db, headless=headless)
    log_core_to_python()
    asyncio.run(_serve(embedded, as_json=as_json))


def _make(
    settings: OrkestraConfig,
    namespaces: list[str],
    port: int,
    ui_port: int | None,
    db: Path | None,
    *,
    headless: bool,
) -> DevServer:
    if ui_port is None and not headless and 0 < port <= _LAST_PORT - _UI_OFFSET:
        ui_port = port + _UI_OFFSET
    if headless and ui_port is not None:
        msg = f"--ui-port {ui_port} contradicts --headless: give one of them"
        raise ConfigurationError(msg)
    _require_free("--port", port, "--port 0 takes a free one")
    _require_free("--ui-port", ui_port, "give another --ui-port, or --headless")
    try:
        return DevServer(
            port=port or None,
            ui=not headless,
            ui_port=ui_port,
            db_filename=db,
            namespaces=namespaces,
            search_attribute=settings.tenancy.search_attribute,
        )
    except DevServerError as error:
        raise ConfigurationError(str(error)) from error


def _require_free(option: str, port: int | None, otherwise: str) -> None:
    reason = why_not(port) if port else None
    if reason is not None:
        msg = f"{option} {port} cannot be used: {reason}: free it; {otherwise}"
        raise ConfigurationError(msg)


async def _serve(server: DevServer, *, as_json: bool) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run() made it
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with _started(server):
            _announce(server, as_json=as_json)
            while server.is_running:  # noqa: ASYNC110 - nothing tells when a process ends
                await asyncio.sleep(_LOOK)
        msg = f"the embedded server ended by itself; its output ends with: {server.output}"
        raise DevServerError(msg)


@contextlib.asynccontextmanager
async def _started(server: DevServer) -> AsyncGenerator[None]:
    try:
        await server.start()
    except DevServerError as error:
        if server.output:
            raise
        # It was never begun, so it is for whoever typed the command to change something.
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
