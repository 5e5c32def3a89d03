"""The server of probes under clients that are slow, many, wrong or hostile."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus

import psutil
import pytest

from orkestra.errors import ConfigurationError
from orkestra.temporal.run_worker.probes import ProbeResponse, ProbeServer
from tests.support.waiting import PATIENCE
from tests.support.worker_process import get


def broken() -> ProbeResponse:
    raise ValueError("secret detail")


@pytest.fixture
def address() -> Iterator[str]:
    fine = ProbeResponse.of_json({"fine": True}, HTTPStatus.OK)
    server = ProbeServer("127.0.0.1:0", {"/fine": lambda: fine, "/broken": broken})
    yield server.url.removeprefix("http://")
    server.stop()
    server.stop()


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def test_a_known_path_gets_its_response(address):
    assert get(address, "/fine") == (200, {"fine": True})
    assert get(address, "/fine?why=not") == (200, {"fine": True})
    assert get(address, "/fine", "HEAD") == (200, "")
    assert get(address, "/") == (404, {"error": "not found: use /fine, /broken"})
    assert get(address, "/fine", "POST")[0] == 405


def test_a_failing_handler_is_a_500_that_does_not_show_the_cause(address, caplog):
    assert get(address, "/broken") == (
        500,
        {"error": "the probe failed: see the log"},
    )
    assert "secret detail" in caplog.text


def test_thousands_of_silent_clients_take_neither_files_nor_answers_away(address):
    process = psutil.Process()
    before = process.num_fds()
    with ExitStack() as stack:
        for number in range(400):
            held = stack.enter_context(connect(address))
            held.sendall(b"GET /fine HTTP/1.1\r\nX-Slow: ")
            if number % 100 == 99:
                assert get(address, "/fine") == (200, {"fine": True})
        # Both ends are in this process: 400 of ours, and few of the server's.
        assert process.num_fds() - before < 400 + 80


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET /fine\r\n\r\n",
        b"\r\n\r\n",
        b"GET " + b"/" * 100_000,
        b"GET /fine HTTP/1.1\r\n" + b"A: b\r\n" * 10_000,
        b"\xff\xfe / HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_does_not_stop_the_server(address, sent):
    with connect(address) as client, suppress(ConnectionError, OSError):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        client.recv(65536)
    assert get(address, "/fine") == (200, {"fine": True})


def test_a_client_that_sends_nothing_is_disconnected_after_some_seconds(address):
    with connect(address) as client:
        began = time.monotonic()
        client.settimeout(PATIENCE)
        with suppress(ConnectionError):
            assert client.recv(1) == b""
        assert time.monotonic() - began > 4


def test_the_error_of_an_address_in_use_names_the_setting(address):
    with pytest.raises(ConfigurationError, match=rf"worker\.probes_address '{address}'"):
        ProbeServer(address, {})
