"""What systemd is told."""

import socket
from pathlib import Path

import pytest

from orkestra.temporal.run_worker.run import Systemd
from orkestra.temporal.run_worker.supervisor import ProcessStatus, Stage, WorkerStatus
from tests.support.waiting import PATIENCE


@pytest.fixture
def manager(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(PATIENCE)
        yield made


def test_systemd_is_notified_of_readiness_stopping_and_the_watchdog(manager, tmp_path):
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
    systemd = Systemd(environment)
    assert systemd.heartbeat_seconds == 1.5
    worker = WorkerStatus("orders", "default", "localhost:7233")
    status = ProcessStatus(workers=(worker,))

    def told() -> str:
        systemd.notify(status)
        return manager.recv(4096).decode()

    assert told() == "STATUS=starting: connecting\nWATCHDOG=1"
    assert told() == "WATCHDOG=1"
    status.enter(Stage.RUNNING)
    assert told() == "STATUS=running: 'orders': not started yet\nWATCHDOG=1"
    worker.fault = None
    assert told() == "READY=1\nSTATUS=running\nWATCHDOG=1"
    worker.trouble = "the server\ndoes not answer"
    assert told() == "STATUS=running: 'orders': the server does not answer\nWATCHDOG=1"
    status.enter(Stage.DRAINING, "SIGTERM")
    assert told() == "STOPPING=1\nSTATUS=draining: SIGTERM\nWATCHDOG=1"


def test_without_systemd_nothing_is_sent_and_a_missing_socket_is_ignored(tmp_path):
    Systemd({}).notify(ProcessStatus())
    assert Systemd({"WATCHDOG_USEC": "1000"}).heartbeat_seconds is None
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).notify(ProcessStatus())
    another = {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    assert Systemd(another).heartbeat_seconds is None
