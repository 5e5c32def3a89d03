"""The command line where no server is needed: help, bad input, and what it prints."""

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import typer

from orkestra.cli.app import report, run
from orkestra.cli.options import help_of, log_to_stderr, parse_duration, plain
from orkestra.errors import (
    ConnectionFailedError,
    ConnectionFailureReason,
    DevServerError,
    InvalidTenantError,
    SearchAttributeError,
)
from tests.support.command import Command, clean_environment, one_line
from tests.support.waiting import PATIENCE

COMMANDS = ("demo", "server", "worker", "health", "search-attributes")
WORKFLOW = """
from temporalio import workflow

@workflow.defn(name="Greeting")
class {name}:
    @workflow.run
    async def run(self) -> None: ...
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.settimeout(PATIENCE)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


@pytest.fixture
def taken_port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Give the root logger its handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that bad input gets."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    line = one_line(result.stderr)
    assert line.startswith("orkestra: ")
    return line


def test_an_unknown_key_in_the_file_is_refused_by_name(command: Command) -> None:
    command.write("orkestra.toml", '[temporal]\nadress = "localhost:7233"\n')

    line = refused(command.run("health"))

    assert "temporal.adress" in line
    assert "orkestra.toml" in line


def test_an_address_without_a_port_is_refused(command: Command) -> None:
    line = refused(command.run("health", TEMPORAL_ADDRESS="localhost"))

    assert "'localhost'" in line
    assert "host:port" in line


def test_an_unreadable_certificate_is_refused(command: Command) -> None:
    line = refused(
        command.run("health", TEMPORAL_TLS="true", TEMPORAL_TLS_SERVER_CA_CERT_PATH="/no/ca.pem")
    )

    assert "/no/ca.pem" in line


def test_a_module_that_does_not_exist_is_refused(command: Command) -> None:
    line = refused(command.run("worker", "no_such_module", "--task-queue", "queue"))

    assert "'no_such_module' does not exist" in line


def test_a_module_that_cannot_be_imported_is_refused_with_its_error(command: Command) -> None:
    command.write("broken.py", "raise KeyError('first line\\nsecond line')\n")

    line = refused(command.run("worker", "broken", "--task-queue", "queue"))

    assert "'broken'" in line
    assert "KeyError" in line


def test_a_module_without_workflows_is_refused(command: Command) -> None:
    command.write("barren.py", "")

    line = refused(command.run("worker", "barren", "--task-queue", "queue"))

    assert "'barren' defines no workflow and no activity" in line


def test_two_workflows_of_one_name_are_refused_also_from_two_modules(command: Command) -> None:
    command.write("one.py", WORKFLOW.format(name="Hello"))
    command.write("two.py", WORKFLOW.format(name="Hallo"))

    line = refused(command.run("worker", "one", "two", "--task-queue", "queue"))

    assert "two workflows are named 'Greeting': one.Hello and two.Hallo" in line


def test_an_empty_task_queue_is_refused(command: Command) -> None:
    command.write("one.py", WORKFLOW.format(name="Hello"))

    assert "empty" in refused(command.run("worker", "one", "--task-queue", ""))


def test_a_port_in_use_is_refused(command: Command, taken_port: int) -> None:
    line = refused(command.run("server", "--port", str(taken_port)))
    ui_line = refused(command.run("server", "--port", "0", "--ui-port", str(taken_port)))

    assert f"--port {taken_port} cannot be used" in line
    assert f"--ui-port {taken_port} cannot be used" in ui_line


def test_a_database_that_cannot_be_made_is_refused(command: Command) -> None:
    line = refused(command.run("server", "--port", "0", "--db", "no/such/folder/file.db"))

    assert "folder does not exist" in line or "directory does not exist" in line


def run_without(
    packages: Sequence[str], *arguments: str, command: Command, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as if these packages were not installed, and no program either."""
    code = f"""
import importlib.metadata, sys
def files(distribution):
    raise importlib.metadata.PackageNotFoundError(distribution)
importlib.metadata.files = files
sys.modules.update(dict.fromkeys({packages!r}))
sys.argv = ["orkestra", *{arguments!r}]
from orkestra.cli.__main__ import main
main()
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=command.directory,
        env=clean_environment(command.directory, PATH="", **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        (["typer", "rich"], ["health"], "cli"),
        (["uvicorn", "starlette"], ["demo"], "dev"),
        (["watchfiles"], ["dev", "one"], "dev"),
        (["watchfiles"], ["dev", "--help"], "dev"),
        ([], ["dev", "one", "--port=0", "--ui-port=0", "--traces-port=0"], "dev"),
        ([], ["server", "--port=0"], "dev"),
        (["langfuse"], ["demo"], "langfuse"),
        (["langfuse"], ["dev", "one", "--port=0", "--ui-port=0", "--traces-port=0"], "langfuse"),
        (["langfuse"], ["worker", "one", "--task-queue=queue"], "langfuse"),
        (["langfuse"], ["trace", "backfill", "order-42", "--tenant=acme"], "langfuse"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_missing_extra_is_refused_with_the_command_that_installs_it(
    missing: list[str], arguments: list[str], extra: str, command: Command
) -> None:
    command.write("one.py", WORKFLOW.format(name="Hello"))
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}
    variables = keys if extra == "langfuse" else {}

    result = run_without(missing, *arguments, command=command, **variables)

    assert refused(result).endswith(f'needs an extra: pip install "orkestra-core[{extra}]"')


def test_the_demo_without_a_server_says_which_extra_has_one(command: Command) -> None:
    result = run_without([], "demo", command=command)

    assert result.returncode == 2
    assert one_line(result.stderr).endswith('pip install "orkestra-core[dev]"')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["healt"], "unknown command 'healt'"),
        (["health", "--queue", "x"], "No such option: --queue"),
        (["health", "now"], "unexpected extra argument"),
        (["health", "--timeout", "soon"], "'soon' is not a positive duration"),
        (["health", "--timeout", "0"], "'0' is not a positive duration"),
        (["health", "--timeout"], "--timeout"),
        (["health", "--task-queue", ""], "'' is empty"),
        (["health", "--namespace", " "], "' ' is empty"),
        (["server", "--namespace", ""], "'' is empty"),
        (["search-attributes", "ensure", "--name", ""], "'' is empty"),
        (["worker"], "MODULE"),
        (["worker", "one"], "--task-queue"),
        (["server", "--port", "many"], "--port"),
        (["server", "--port", "65536"], "--port"),
        (["search-attributes"], "Missing command"),
        (["search-attributes", "delete"], "delete"),
        (["--colour", "health"], "--colour"),
    ],
)
def test_a_usage_error_is_one_line_without_a_box(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    assert run(arguments) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in one_line(printed.err)


def test_an_unknown_key_in_the_environment_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    monkeypatch.setenv("ORKESTRA_TENANCY__MOOD", "required")

    assert run(["health"]) == 2
    assert "tenancy.mood" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("before", [True, False])
def test_the_configuration_file_can_be_named_before_or_after_the_command(
    before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    file = tmp_path / "other.toml"
    option = ["--config", str(file)]
    arguments = [*option, "health"] if before else ["health", *option]

    assert run(arguments) == 2
    assert "does not exist" in one_line(capsys.readouterr().err)
    file.write_text('[tenancy]\nmode = "sometimes"\n')
    assert run(arguments) == 2
    assert "'sometimes'" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["server", "--headless", "--ui-port", "9999"], "--headless"),
        (["search-attributes", "ensure", "--name", "tenant id"], "'tenant id' is malformed"),
    ],
)
def test_contradictory_or_malformed_options_are_refused(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    own_logging: None,
) -> None:
    assert run(arguments) == 2
    assert expected in one_line(capsys.readouterr().err)


def test_help_comes_through_the_real_command_without_control_characters(command: Command) -> None:
    result = command.run("--help", TERM="xterm-256color")

    assert result.returncode == 0
    assert result.stderr == ""
    assert all(name in result.stdout for name in COMMANDS)
    assert "\x1b" not in result.stdout


def test_a_call_without_arguments_prints_the_help(
    capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    assert run([]) == 0
    assert "orkestra demo" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*COMMANDS, "search-attributes ensure"])
def test_the_help_of_each_command_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    assert run([*name.split(), "--help"]) == 0

    printed = capsys.readouterr().out
    assert "\\b" not in printed
    assert f"\n    orkestra {name}" in printed


def test_version_names_orkestra_and_the_sdk(command: Command) -> None:
    result = command.run("--version")

    assert result.returncode == 0
    line = one_line(result.stdout)
    assert line.startswith("orkestra 0.")
    assert "temporalio 1." in line


def test_debug_shows_the_traceback_at_any_position(
    capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    for arguments in (["--debug", "health"], ["health", "--debug"]):
        assert run([*arguments, "--config", "/no/such.toml"]) == 2
        printed = capsys.readouterr().err
        assert "Traceback" in printed
        assert printed.splitlines()[-1].startswith("orkestra: ")


def test_a_missing_server_is_one_line_and_exit_code_1(command: Command) -> None:
    with socket.socket() as freed:
        freed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{freed.getsockname()[1]}"

    result = command.run(
        "search-attributes", "ensure", "--timeout", "500ms", TEMPORAL_ADDRESS=address
    )

    assert result.returncode == 1
    assert address in one_line(result.stderr)


def test_interrupting_a_command_that_waits_exits_with_130(
    command: Command, listener: socket.socket, taken_port: int
) -> None:
    address = f"127.0.0.1:{taken_port}"
    with (
        command.start("search-attributes", "ensure", TEMPORAL_ADDRESS=address) as process,
        listener.accept()[0],
    ):
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in errors


def test_a_closed_output_shows_no_traceback(command: Command) -> None:
    with command.start("--help") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(timeout=PATIENCE)

    assert process.returncode == 1
    assert errors == ""


def test_control_characters_in_arguments_are_escaped(command: Command) -> None:
    line = refused(command.run("worker", "evil\x1b[31m\r\n", "--task-queue", "queue"))

    assert line.isprintable()
    assert r"\x1b" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain: ü → 木", "plain: ü → 木"),
        ("two\nlines", "two lines"),
        ("red \x1b[31m", r"red \x1b[31m"),
        ("tab\tbell\x07\r", r"tab\tbell\x07\r"),
        ("right to left \u202e", r"right to left \u202e"),
        ("\ud800", r"\ud800"),
    ],
)
def test_text_is_made_plain(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(text).isprintable()


def test_log_records_keep_to_one_line(
    capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    log_to_stderr(logging.INFO)

    logging.getLogger("test").info("started %s", "wf\n2026 ERROR forged \x1b[2J")

    assert r"started wf 2026 ERROR forged \x1b[2J" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("0.5", 0.5), ("5s", 5), ("500ms", 0.5), ("2m", 120)]
)
def test_durations_are_read_as_in_the_configuration(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "-1s", "soon", "5 parsecs", "nan", "inf", "1e400"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="not a positive duration"):
        parse_duration(text)


def test_only_paragraphs_with_indented_lines_keep_their_lines() -> None:
    def documented() -> None:
        """First.

        Some text that
        may be wrapped.

        Examples:
          orkestra one
          orkestra two
        """

    assert help_of(documented) == (
        "First.\n\nSome text that\nmay be wrapped.\n\n\bExamples:\n  orkestra one\n  orkestra two"
    ).replace("\b", "\b\n")


def _connection_failure(reason: ConnectionFailureReason) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"failed: {reason}", reason=reason, address="a:1", attempts=1, elapsed=timedelta()
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidTenantError("tenant 'X' is malformed"), 2, "tenant 'X' is malformed"),
        (SearchAttributeError("has type Text"), 2, "has type Text"),
        (DevServerError("it ended"), 1, "it ended"),
        (_connection_failure(ConnectionFailureReason.BAD_ADDRESS), 2, "failed: bad_address"),
        (_connection_failure(ConnectionFailureReason.REFUSED), 1, "failed: refused"),
        (TimeoutError("not in time"), 1, "not in time"),
        (PermissionError(13, "Permission denied", "/x"), 1, "[Errno 13] Permission denied: '/x'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("odd"), 1, "ValueError: odd (--debug shows the traceback)"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, debug=False) == code
    assert one_line(capsys.readouterr().err) == f"orkestra: {line}"
