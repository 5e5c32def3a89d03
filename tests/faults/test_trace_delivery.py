"""Delivery of spans under every answer of Langfuse, or of a proxy before it."""

import asyncio
import logging
import multiprocessing
import random
import string
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orkestra.config import LangfuseSettings
from orkestra.langfuse import LangfuseSink, Loss
from orkestra.otlp import decode_request
from tests.support.traced_worker import record_of
from tests.support.waiting import PATIENCE, PATIENTLY

Reply = tuple[int, dict[str, str]]
ACCEPTED: Reply = (200, {})


@dataclass
class Scripted:
    """A Langfuse that answers as a test says, to each request by its number and body."""

    reply: Callable[[int, bytes], Reply]
    url: str = ""
    times: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def answer(self, compressed: bytes) -> Reply:
        self.times.append(time.monotonic())
        body, spans = decode_request(
            compressed, content_type="application/x-protobuf", encoding="gzip"
        )
        status, headers = self.reply(len(self.times), body)
        if status == 200:
            self.names += [span.name for span in spans]
        return status, headers


@contextmanager
def answering(reply: Callable[[int, bytes], Reply]) -> Iterator[Scripted]:
    script = Scripted(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = script.answer(body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sink_of(script: Scripted, **settings: Any) -> LangfuseSink:
    keys = {"public_key": "pk-lf-delivery", "secret_key": "sk-lf-delivery"}
    return LangfuseSink(
        LangfuseSettings.model_validate({**keys, "base_url": script.url, **settings})
    )


def noise(length: int) -> str:
    return "".join(random.choices(string.ascii_letters, k=length))


async def test_a_batch_that_is_too_large_is_halved_until_it_fits(caplog):
    names = [noise(1000) for _ in range(20)]
    names[7] = noise(9000)
    with answering(lambda _, body: ACCEPTED if len(body) < 5000 else (413, {})) as script:
        sink = sink_of(script)
        for number, name in enumerate(names, 1):
            sink.emit(record_of(name=name, number=number))
        assert not await sink.flush(PATIENTLY)
        assert await sink.close(PATIENTLY)
    assert sorted(script.names) == sorted(name for name in names if len(name) == 1000)
    assert sink.lost == {Loss.TOO_LARGE: 1}
    assert [r.levelno for r in caplog.records if "Spans are lost" in r.message] == [logging.WARNING]


@pytest.mark.parametrize("status", [429, 503])
async def test_retries_respect_the_retry_after_header(status):
    busy = (status, {"Retry-After": "2"})
    with answering(lambda number, _: busy if number == 1 else ACCEPTED) as script:
        sink = sink_of(script)
        sink.emit(record_of())
        assert await sink.flush(PATIENTLY)
        await sink.close(PATIENTLY)
    first, second = script.times
    assert second - first >= 2
    assert script.names == ["workflow:X"]
    assert not sink.lost


async def test_a_flush_of_a_busy_langfuse_ends_in_time_and_nothing_is_lost_by_it():
    with answering(lambda *_: (429, {"Retry-After": "50"})) as script:
        sink = sink_of(script)
        sink.emit(record_of())
        began = time.monotonic()
        assert not await sink.flush(timedelta(seconds=1.5))
        assert time.monotonic() - began < 50
        assert not sink.lost
        assert not await sink.close(timedelta(seconds=1.5))
    assert sink.lost == {Loss.UNSENT: 1}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
async def test_permanent_errors_are_not_retried(status):
    with answering(lambda *_: (status, {})) as script:
        sink = sink_of(script)
        sink.emit(record_of())
        assert not await sink.flush(PATIENTLY)
        await sink.close(PATIENTLY)
    assert len(script.times) == 1
    assert sink.lost == {Loss.REJECTED: 1}


async def test_a_slow_langfuse_delays_nothing_and_memory_stays_bounded():
    def slowly(*_: object) -> Reply:
        time.sleep(0.2)
        return ACCEPTED

    with answering(slowly) as script:
        sink = sink_of(script, queue_size=500)
        tracemalloc.start()
        waits = 0
        for number in range(1, 15_001):
            began = time.perf_counter()
            sink.emit(record_of(number=number))
            waits += time.perf_counter() - began > 0.2
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await sink.flush(PATIENTLY)
        await sink.close(PATIENTLY)
    assert waits < 10  # each batch takes as long to send; a busy machine makes this wait, too
    assert peak < 20_000_000
    assert set(sink.lost) == {Loss.QUEUE_FULL}
    assert len(script.names) + sink.lost[Loss.QUEUE_FULL] == 15_000


async def test_many_spans_take_few_requests_and_all_arrive():
    with answering(lambda *_: ACCEPTED) as script:
        sink = sink_of(script)
        for number in range(1, 2001):
            sink.emit(record_of(name=f"n{number}", number=number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        assert await sink.flush(PATIENTLY)
        await sink.close(PATIENTLY)
    assert sorted(script.names) == sorted(f"n{number}" for number in range(1, 2001))
    assert len(script.times) < 20


async def test_spans_that_come_after_the_close_are_counted():
    with answering(lambda *_: ACCEPTED) as script:
        sink = sink_of(script)
        sink.emit(record_of())
        assert await sink.close(PATIENTLY)
        sink.emit(record_of(number=2))
        assert await sink.close(PATIENTLY)
    assert script.names == ["workflow:X"]
    assert sink.lost == {Loss.UNSENT: 1}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_sends_no_span_of_its_parent_and_ends_at_once():
    with answering(lambda *_: ACCEPTED) as script:
        sink = sink_of(script, flush_timeout=2 * PATIENTLY)
        sink.emit(record_of())
        child = multiprocessing.get_context("fork").Process(
            target=lambda: (sink.emit(record_of(number=2)), sink._flush_at_exit())
        )
        child.start()
        await asyncio.to_thread(child.join, PATIENCE)
        assert child.exitcode == 0
        await sink.close(PATIENTLY)
    assert script.names == ["workflow:X"]
