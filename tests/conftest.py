"""What every test may ask for: one server a run, fresh names, and a check that nothing is left."""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from temporalio.client import Client

from orkestra.devserver import DevServer
from tests.support.names import Fresh
from tests.support.sandboxes import Desk
from tests.support.waiting import PATIENCE, until

# How long an example takes says more of the machine than of the code.
settings.register_profile("orkestra", deadline=None)
settings.load_profile("orkestra")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and what they start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
async def dev_server() -> AsyncIterator[DevServer]:
    """The server of the run, with the namespaces `default` and `second`; started when asked for."""
    # The server's own limit is some hundred lists and counts a second, for all tests together.
    unhurried: dict[str, int | str] = {"frontend.namespaceRPS.visibility": 10_000}
    async with DevServer(namespaces=["second"], dynamic_config=unhurried) as server:
        yield server


@pytest.fixture(scope="session")
async def raw_client(dev_server: DevServer) -> Client:
    """A client of the SDK alone, in the namespace `default`: what the server sees without us."""
    return await Client.connect(dev_server.address)


@pytest.fixture
def fresh() -> Fresh:
    """Names that this test alone uses."""
    return Fresh()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Writes packages of workflow code that can be imported, and are forgotten with the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Desk(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture(autouse=True)
async def no_thread_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves a thread behind which would keep the interpreter from ending.

    It waits on the loop: what that is still to call may hold the thread's pool.
    """
    before = set(threading.enumerate())
    yield

    def none_is_left() -> bool:
        if _threads_since(before):
            gc.collect()  # the pool of a replayer goes with it, and a traceback may hold that
        return not _threads_since(before)

    await until(none_is_left, lambda: _threads_since(before))


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task running on the loop that all tests share."""
    before = asyncio.all_tasks()
    yield
    left: set[asyncio.Task[object]] = set()
    if ending := _tasks_since(before):
        # Not counted anew: a worker of the module starts short tasks of its own all the time.
        _, left = await asyncio.wait(ending, timeout=PATIENCE)
    for task in left:
        task.cancel()
    assert not left


def _threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    # The loop's own executor keeps its threads for the next test.
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and not thread.daemon and not thread.name.startswith("asyncio_")
    ]


def _tasks_since(before: set[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]
