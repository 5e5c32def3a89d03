"""Options, ports, program and reaper of the embedded server, without a server."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from temporalio.runtime import Runtime

from orkestra.devserver import BINARY_VARIABLE, DevServer, find_temporal_binary
from orkestra.devserver.process import ReapedProcess
from orkestra.devserver.server import free_port, require_free
from orkestra.errors import DevServerError, MissingExtraError
from tests.support.processes import has_ended
from tests.support.waiting import PATIENCE, until

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def listening() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def shell(script: str, *, grace: float = 5, echo: bool = False) -> ReapedProcess:
    return ReapedProcess(
        ["/bin/sh", "-c", script],
        environment=os.environ,
        grace=timedelta(seconds=grace),
        echo=echo,
    )


async def until_up(process: ReapedProcess) -> psutil.Process:
    def is_up() -> bool:
        assert process.poll()
        return process.is_up

    await until(is_up)
    assert process.pid is not None
    return psutil.Process(process.pid)


async def until_ended(process: ReapedProcess) -> None:
    async with asyncio.timeout(PATIENCE):
        await process.wait()


@pytest.fixture(autouse=True, scope="module")
def sdk_runtime() -> None:
    """The SDK's own descriptors are opened once and stay open."""
    Runtime.default()


@pytest.fixture(autouse=True)
async def no_process_and_no_descriptor_is_left() -> AsyncIterator[None]:
    this = psutil.Process()
    processes, descriptors = set(this.children(recursive=True)), this.num_fds()
    yield
    await until(lambda: set(this.children(recursive=True)) <= processes)
    await until(lambda: this.num_fds() <= descriptors)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"port": 0}, "port 0 is no port"),
        ({"port": 65_536}, "port 65536 is no port"),
        ({"ui": True, "ui_port": -1}, "ui_port -1 is no port"),
        ({"ui_port": 8233}, "ui_port 8233 is given for a server without UI: set ui=True"),
        ({"ui": True, "port": 7233, "ui_port": 7233}, "port and ui_port are both 7233"),
        ({"namespaces": "second"}, "namespaces 'second' must be a sequence of names"),
        ({"namespaces": ["second", ""]}, "must be a sequence of names"),
        ({"namespaces": ["''"]}, "must be a sequence of names of letters"),
        ({"search_attribute": "tenant=x"}, "search_attribute 'tenant=x' must be letters"),
        ({"log_level": "loud"}, "log_level 'loud' must be one of debug, info, warn, error, never"),
    ],
)
def test_a_wrong_option_is_refused_with_its_name_and_value(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DevServerError) as refused:
        DevServer(**options)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_never_started_has_no_address_no_pid_and_no_output() -> None:
    server = DevServer(ui=True)
    with pytest.raises(DevServerError, match="start it first"):
        _ = server.address
    assert (server.pid, server.ui_url, server.output, server.is_running) == (None, None, "", False)


def test_requested_ports_are_known_before_the_start() -> None:
    server = DevServer(port=7233, ui=True, ui_port=8233)
    assert server.address == "127.0.0.1:7233"
    assert server.ui_url == "http://127.0.0.1:8233"


async def test_stopping_and_killing_a_server_that_never_started_does_nothing() -> None:
    server = DevServer()
    await server.stop()
    await server.kill()
    assert not server.is_running


async def test_a_database_in_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    server = DevServer(db_filename=nowhere / "temporal.db")
    with pytest.raises(DevServerError, match="its directory does not exist"):
        await server.start()
    assert not nowhere.exists()


async def test_an_empty_file_is_refused_as_a_database(tmp_path: Path) -> None:
    file = tmp_path / "temporal.db"
    file.touch()
    with pytest.raises(DevServerError, match="is no database: remove it"):
        await DevServer(db_filename=file).start()


async def started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[str], list[str]]:
    """Arguments and environment that a server with these options starts its program with."""
    arguments, environment = tmp_path / "arguments", tmp_path / "environment"
    recorder = program(
        tmp_path / "temporal", f"printf '%s\\n' \"$@\" > {arguments}; env > {environment}; exit 3"
    )
    monkeypatch.setenv(BINARY_VARIABLE, str(recorder))
    with pytest.raises(DevServerError, match="ended with code 3"):
        await DevServer(**options).start()
    return arguments.read_text().splitlines(), environment.read_text().splitlines()


async def test_every_option_reaches_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, ui_port = free_port(), free_port()
    arguments, _ = await started_with(
        tmp_path,
        monkeypatch,
        port=port,
        ui=True,
        ui_port=ui_port,
        db_filename=tmp_path / "temporal.db",
        namespaces=["second"],
        dynamic_config={"a.number": 3, "a.text": "x", "matching.enableFairness": False},
        log_level="info",
    )
    assert arguments[:2] == ["server", "start-dev"]
    assert set(arguments[2:]) == {
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ui-port={ui_port}",
        "--ui-disable-news-fetch",
        f"--db-filename={tmp_path / 'temporal.db'}",
        "--namespace=second",
        "--search-attribute=tenantId=Keyword",
        "--log-level=info",
        "--dynamic-config-value=matching.useNewMatcher=true",
        "--dynamic-config-value=matching.enableFairness=false",
        "--dynamic-config-value=frontend.enableServerVersionCheck=false",
        "--dynamic-config-value=a.number=3",
        '--dynamic-config-value=a.text="x"',
    }


async def test_without_fairness_the_matching_service_keeps_its_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, _ = await started_with(tmp_path, monkeypatch, fairness=False)
    assert "--headless" in arguments
    assert not any("matching." in argument for argument in arguments)


async def test_the_server_gets_the_environment_without_the_settings_of_temporal_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ENV_FILE", "/somewhere")
    monkeypatch.setenv("HOME", "/somewhere/else")
    monkeypatch.setenv("GOMAXPROCS", "1")
    _, environment = await started_with(tmp_path, monkeypatch)
    assert not any(line.startswith(("TEMPORAL_", "HOME=")) for line in environment)
    assert "GOMAXPROCS=1" in environment


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 40
    assert all(20_000 <= port < 30_000 for port in ports)
    for port in ports:
        require_free(port, option="port")


def test_a_port_that_something_listens_on_is_refused_with_its_number() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            DevServerError, match=rf"ui_port {port} cannot be used.*address already in use"
        ):
            require_free(port, option="ui_port")
    require_free(port, option="ui_port")


def test_a_port_with_recently_closed_connections_is_free() -> None:
    with listening() as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as caller:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            assert caller.recv(1) == b""
    require_free(address[1], option="port")


async def test_a_port_in_use_is_refused_at_once() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        server = DevServer(port=port)
        began = time.monotonic()
        with pytest.raises(DevServerError, match=f"port {port} cannot be used on 127.0.0.1"):
            await server.start()
        assert time.monotonic() - began < 25  # and not when the time for the start is up
        assert not server.is_running


def test_the_environment_variable_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = program(tmp_path / "my-temporal", "exit 0")
    monkeypatch.setenv(BINARY_VARIABLE, str(mine))
    assert find_temporal_binary() == mine
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(BINARY_VARIABLE, "my-temporal")
    assert find_temporal_binary() == mine


@pytest.mark.parametrize("kind", ["absent", "directory", "not executable"])
def test_a_variable_that_names_no_program_is_an_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "temporal"
    if kind == "directory":
        path.mkdir()
    elif kind == "not executable":
        path.touch(mode=0o644)
    monkeypatch.setenv(BINARY_VARIABLE, str(path))
    with pytest.raises(DevServerError) as refused:
        find_temporal_binary()
    assert f"{BINARY_VARIABLE}={str(path)!r} is not an executable file" in str(refused.value)


def test_the_program_of_the_wheel_is_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    found = find_temporal_binary()
    assert found.name == "temporal"
    assert found.is_relative_to(Path(sys.prefix).resolve())


def test_without_the_wheel_the_program_on_the_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = program(tmp_path / "temporal", "exit 0")
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])  # as if nothing were installed
    assert find_temporal_binary() == mine


async def test_without_any_program_the_error_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtraError, match=r'pip install "orkestra-core\[dev\]"'):
        await DevServer().start()


async def test_a_program_that_ends_early_is_quoted_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = program(tmp_path / "temporal", "echo some greeting; echo the reason >&2; exit 3")
    monkeypatch.setenv(BINARY_VARIABLE, str(failing))
    server = DevServer()
    with pytest.raises(DevServerError, match=r"ended with code 3 before[^\n]*\n(.*\n)*the reason"):
        await server.start()
    assert "some greeting" in server.output


async def test_a_program_that_the_system_cannot_execute_is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "temporal"
    broken.write_bytes(b"\x00\x01 for another machine")
    broken.chmod(0o755)
    monkeypatch.setenv(BINARY_VARIABLE, str(broken))
    with pytest.raises(DevServerError, match="Exec format error"):
        await DevServer().start()


async def test_a_program_that_never_serves_is_ended_after_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, str(program(tmp_path / "temporal", STUBBORN)))
    server = DevServer(startup_timeout=timedelta(seconds=3))
    with pytest.raises(DevServerError, match=r"was not usable within 0:00:03.*\nready"):
        await server.start()
    assert not server.is_running


async def test_a_program_that_keeps_losing_its_port_is_started_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"
    script = f"echo x >> {tries}; echo 'bind: address already in use' >&2; exit 1"
    monkeypatch.setenv(BINARY_VARIABLE, str(program(tmp_path / "temporal", script)))
    with pytest.raises(DevServerError, match="lost its ports to other programs 3 times"):
        await DevServer().start()
    assert tries.read_text().split() == ["x"] * 3


async def test_a_command_is_ended_by_sigterm() -> None:
    process = shell("echo ready; exec sleep 60")
    await until_up(process)
    await process.end()
    assert process.exit_code == -signal.SIGTERM


async def test_a_command_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    process = shell(STUBBORN, grace=0.3)
    await until_up(process)
    began = time.monotonic()
    await process.end()
    assert time.monotonic() - began >= 0.3
    assert process.exit_code == -signal.SIGKILL


async def test_a_command_can_be_killed_while_it_is_being_ended() -> None:
    process = shell(STUBBORN, grace=2 * PATIENCE)
    await until_up(process)
    ending = asyncio.ensure_future(process.end())
    await asyncio.sleep(0.1)
    await process.kill()
    await ending
    assert process.exit_code == -signal.SIGKILL


async def test_a_cancelled_end_kills_the_command_before_it_returns() -> None:
    process = shell(STUBBORN, grace=2 * PATIENCE)
    server = await until_up(process)
    ending = asyncio.ensure_future(process.end())
    await asyncio.sleep(0.1)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert not server.is_running()


def test_a_command_can_be_killed_before_it_has_begun() -> None:
    process = shell(STUBBORN)
    process.kill_now()
    assert not process.poll()
    process.kill_now()


async def test_the_end_of_a_long_output_is_kept() -> None:
    process = shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo last >&2")
    await until_ended(process)
    assert process.exit_code == 0
    assert process.output.endswith(("last", "line 19999"))
    assert {"last", "line 19999"} <= set(process.output.splitlines())
    assert 30_000 < len(process.output) <= 32 * 1024


async def test_a_program_that_does_not_read_does_not_block_its_command(tmp_path: Path) -> None:
    done = tmp_path / "done"
    process = shell(f"head -c 1000000 /dev/zero; touch {done}; exec sleep 60")
    deadline = time.monotonic() + PATIENCE
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # noqa: ASYNC251 - the point is that the loop is blocked
    assert done.exists()
    await process.kill()


async def test_the_log_is_echoed_only_on_request(
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = "echo greeting; echo logged >&2"
    for echo in (False, True):
        process = shell(script, echo=echo)
        await until_ended(process)
        assert set(process.output.split()) == {"greeting", "logged"}
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err == ("logged\n" if echo else "")


async def test_ctrl_c_in_the_terminal_does_not_reach_the_command() -> None:
    process = shell("echo ready; exec sleep 60")
    server = await until_up(process)
    assert os.getpgid(server.pid) != os.getpgid(0)
    assert os.getsid(server.pid) != os.getsid(0)
    await process.kill()


async def test_ending_the_reaper_ends_the_command_gracefully() -> None:
    process = shell("echo ready; exec sleep 60")
    server = await until_up(process)
    server.parent().terminate()
    await until_ended(process)
    assert process.exit_code == -signal.SIGTERM


async def test_killing_the_reaper_ends_the_command() -> None:
    process = shell("echo ready; exec sleep 60")
    server = await until_up(process)
    server.parent().kill()
    await until_ended(process)
    assert process.exit_code is None
    await until(lambda: has_ended(server))


async def test_a_reaper_that_is_stopped_is_killed_with_its_command() -> None:
    process = shell(STUBBORN, grace=2 * PATIENCE)
    server = await until_up(process)
    server.parent().suspend()
    began = time.monotonic()
    process.kill_now()
    assert time.monotonic() - began < PATIENCE
    await until(lambda: has_ended(server))


async def test_the_command_gets_no_descriptor_of_the_program() -> None:
    with listening() as listener:
        os.set_inheritable(listener.fileno(), True)
        process = shell("echo ready; exec sleep 60")
        server = await until_up(process)
        assert server.net_connections() == []
        assert server.num_fds() <= 3
        await process.kill()
