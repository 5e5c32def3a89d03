"""`orkestra dev`: watched files, messages between its processes, and reports."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orkestra.dev.messages import (
    Checked,
    IncompatibleExecution,
    Loaded,
    Running,
    parse_message,
    send_message,
)
from orkestra.dev.runner import explain
from orkestra.dev.session import (
    DevLog,
    SourceWatcher,
    find_application,
    format_changed,
    format_checked,
    format_ended,
    format_running,
)
from orkestra.errors import ConfigurationError, DiscoveryError
from orkestra.temporal.worker import discover
from tests.support.waiting import PATIENCE

INCOMPATIBLE = IncompatibleExecution(
    "acme:1", "run", "Order", "staging", "event 5 (TimerStarted)", "no timer"
)


@pytest.fixture
async def watcher(tmp_path: Path) -> AsyncIterator[SourceWatcher]:
    (tmp_path / "shop/inner").mkdir(parents=True)
    (tmp_path / "settings.toml").touch()
    made = SourceWatcher([tmp_path / "shop"], also=[tmp_path / "settings.toml"])
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def notices(watcher: SourceWatcher, file: Path) -> None:
    """Change a file until that is noticed: the watch may have just begun."""
    deadline = time.monotonic() + PATIENCE
    while True:
        file.write_text(str(time.monotonic()))  # noqa: ASYNC240 - a small one
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while file not in await watcher.next():
                    continue  # it was changed more often than it took
                return
        assert time.monotonic() < deadline


async def tells(watcher: SourceWatcher, file: Path, *, besides: set[Path]) -> None:
    """Wait until a change is told; those of before may be told late, and no others."""
    while file not in (told := set(await asyncio.wait_for(watcher.next(), PATIENCE))):
        assert told <= besides
    assert told <= besides | {file}


async def test_sources_in_old_and_new_folders_are_watched_and_nothing_else(
    watcher: SourceWatcher, tmp_path: Path
) -> None:
    inner = tmp_path / "shop/inner/prices.py"
    await notices(watcher, inner)
    settings = tmp_path / "settings.toml"
    await notices(watcher, settings)
    new = tmp_path / "shop/new"
    new.mkdir()
    await tells(watcher, new, besides={inner, settings})
    below = new / "more.py"
    await notices(watcher, below)
    elsewhere = tmp_path / "library.py"
    elsewhere.touch()
    watcher.add_files([str(elsewhere)])
    await notices(watcher, elsewhere)

    (tmp_path / "shop/notes.txt").write_text("x")
    (tmp_path / "shop/__pycache__").mkdir()
    (tmp_path / "shop/__pycache__/x.py").write_text("x")
    (tmp_path / "other.py").write_text("x")
    (tmp_path / "shop/last.py").write_text("x")
    await tells(watcher, tmp_path / "shop/last.py", besides={below, elsewhere})


def test_an_application_is_found_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shop_of_test").mkdir()
    (tmp_path / "shop_of_test/__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "kiosk_of_test.py").write_text("raise SystemExit('imported')")
    assert find_application("shop_of_test.workflows") == [tmp_path / "shop_of_test"]
    assert find_application("kiosk_of_test") == [tmp_path / "kiosk_of_test.py"]
    for missing in ("nothing_of_test", "", ".", "sys"):
        with pytest.raises(ConfigurationError, match="does not exist"):
            find_application(missing)


def test_an_error_shows_the_frames_of_the_application_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_of_test.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    with pytest.raises(DiscoveryError) as raised:
        discover("broken_of_test")
    explained = explain(raised.value)
    assert explained.startswith("Traceback (most recent call last):\n  File")
    assert explained.count("File ") == 2
    assert explained.endswith("ZeroDivisionError: division by zero")
    with pytest.raises(DiscoveryError) as raised:
        discover("missing_of_test")
    assert explain(raised.value).splitlines() == [str(raised.value)]


def test_messages_arrive_as_they_were_sent() -> None:
    messages = [
        Loaded(["a.py"], "oops\n"),
        Checked(3, 1, [INCOMPATIBLE], 1),
        Running(["orders"], 1, 2),
    ]
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as lines:
        for message in messages:
            send_message(sending, message)
        os.close(sending)
        assert [parse_message(line) for line in lines] == messages


def test_reports_name_the_problem_and_the_fix() -> None:
    held = format_checked(Checked(9, 2, [INCOMPATIBLE], 7), force=False).splitlines()
    assert held == [
        "NON-DETERMINISTIC CHANGE: 7 open executions cannot continue with this code",
        "  Order 'acme:1' at event 5 (TimerStarted): no timer",
        "  and 6 more",
        "2 open executions not replayed: the new code may be incompatible",
        (
            "worker paused until you fix this: undo the change, guard it with workflow.patched(),"
            " or terminate the executions:"
        ),
        "  orkestra terminate acme:1 --all-tenants --namespace staging",
    ]
    forced = format_checked(Checked(9, 0, [INCOMPATIBLE], 1), force=True)
    assert "worker started anyway (--force)" in forced
    assert format_running(Running(["a", "b"], 1, 2), 0.5) == (
        "running 1 workflow, 2 activities on task queues 'a', 'b' (0.5 s)"
    )
    assert format_changed([Path.cwd() / name for name in "abcde"]) == (
        "a, b, c and 2 more changed: reloading"
    )
    assert format_ended(-9).startswith("the worker exited by signal 9")


def test_the_log_keeps_colours_and_escapes_other_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = DevLog()
    log.forward("\x1b[31mred\x1b[0m \x1b]0;title\x07plain [bold]")
    log.write("id \x1b[2J\u202e")
    first, second = capsys.readouterr().out.splitlines()
    assert first.isprintable()
    assert first[8:].split()[:2] == ["worker", "red"]
    assert first.endswith("plain [bold]")
    assert second[8:].split() == ["orkestra", "id", r"\x1b[2J\u202e"]
