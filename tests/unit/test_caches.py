"""Bounded caches."""

import multiprocessing
import threading

import pytest

from orkestra.caches import LruCache
from tests.support.waiting import PATIENCE


def test_the_number_of_entries_is_bounded():
    recent = LruCache[int, str](100)
    recent.put(-1, "kept")
    for number in range(100_000):
        recent.put(number, "made up")
        assert recent.get(-1) == "kept"
    assert len(recent) == 100
    assert recent.get(5) is None


def test_a_replaced_value_becomes_the_most_recent():
    recent = LruCache[int, str](2)
    for number, text in ((1, "old"), (2, "b"), (1, "new"), (3, "c")):
        recent.put(number, text)
    assert [recent.get(number) for number in (1, 2, 3)] == ["new", None, "c"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_use_a_cache_that_another_thread_is_using():
    recent = LruCache[object, str](2)
    is_inside, may_leave = threading.Event(), threading.Event()

    class Slow:
        def __hash__(self) -> int:
            is_inside.set()
            may_leave.wait(PATIENCE)
            return 1

    thread = threading.Thread(target=recent.get, args=(Slow(),))
    thread.start()
    assert is_inside.wait(PATIENCE)
    threading.Timer(0.1, may_leave.set).start()
    child = multiprocessing.get_context("fork").Process(target=recent.put, args=("key", "value"))
    child.start()
    child.join(PATIENCE)
    exit_code = child.exitcode
    child.kill()
    thread.join()
    assert exit_code == 0
