"""Health reports on real servers in all their states."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCStatusCode
from temporalio.worker import Worker

from orkestra.config import TemporalSettings
from orkestra.devserver import DevServer
from orkestra.errors import (
    ConfigurationError,
    ConnectionFailedError,
    ConnectionFailureReason,
    ForbiddenOperationError,
)
from orkestra.temporal.connection import open_connection
from orkestra.temporal.health import HealthCheck, HealthReport, check_temporal_health
from tests.support.fake_service import refuse, status, with_answers
from tests.support.names import Fresh
from tests.support.waiting import PATIENCE, PATIENTLY, until

FORBIDDEN = refuse(ForbiddenOperationError("a tenant's client may not do this"))


@workflow.defn(sandboxed=False)
class Idle:
    @workflow.run
    async def run(self) -> None: ...


@activity.defn
async def idle() -> None: ...


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def named(report: HealthReport, name: str) -> HealthCheck:
    [check] = [check for check in report.checks if check.name == name]
    return check


async def test_a_healthy_server_is_reported_with_version_and_latency(raw_client: Client) -> None:
    report = await check_temporal_health(raw_client)

    assert report
    assert report.healthy
    assert report.reachable
    assert report.problems == ()
    assert [check.name for check in report.checks] == [
        "connection",
        "server",
        "namespace",
        "search_attribute",
    ]
    assert all(check.ok for check in report.checks)
    assert report.server_version is not None
    assert report.server_version in named(report, "server").detail
    assert report.latency is not None
    assert report.latency > timedelta()
    assert report.namespace == "default"
    assert report.address == raw_client.service_client.config.target_host


async def test_the_search_attribute_can_be_left_out(raw_client: Client) -> None:
    report = await check_temporal_health(raw_client, search_attribute=None)

    assert report
    assert "search_attribute" not in {check.name for check in report.checks}


async def test_a_missing_namespace_is_distinguished_from_a_missing_server(
    dev_server: DevServer,
) -> None:
    client = await Client.connect(dev_server.address, namespace="nowhere")

    report = await check_temporal_health(client, task_queue="queue")

    assert not report
    assert report.reachable
    assert named(report, "connection").ok
    assert named(report, "server").ok
    assert named(report, "namespace") == HealthCheck(
        "namespace", ok=False, detail="'nowhere' does not exist"
    )
    assert named(report, "search_attribute").ok is False
    assert named(report, "workflow_pollers").ok is False


async def test_a_missing_search_attribute_names_the_command_that_fixes_it(
    raw_client: Client,
) -> None:
    report = await check_temporal_health(raw_client, search_attribute="nobodyMadeThis")

    assert not report
    assert report.reachable
    [problem] = report.problems
    assert problem.name == "search_attribute"
    assert problem.detail == (
        "'nobodyMadeThis' is missing: run `orkestra search-attributes ensure`"
    )


async def test_a_search_attribute_of_another_type_is_a_problem(raw_client: Client) -> None:
    await raw_client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace="default",
            search_attributes={"healthText": IndexedValueType.INDEXED_VALUE_TYPE_TEXT},
        )
    )

    report = await check_temporal_health(raw_client, search_attribute="healthText")

    assert [problem.detail for problem in report.problems] == [
        "'healthText' has type Text, and must be Keyword"
    ]


async def test_a_task_queue_without_pollers_is_a_problem(raw_client: Client, fresh: Fresh) -> None:
    report = await check_temporal_health(raw_client, task_queue=fresh.task_queue())

    assert not report
    assert [problem.name for problem in report.problems] == ["workflow_pollers", "activity_pollers"]
    assert fresh.task_queue() in named(report, "workflow_pollers").detail


async def test_workers_on_the_task_queue_are_seen(raw_client: Client, fresh: Fresh) -> None:
    queue = fresh.task_queue()
    async with Worker(raw_client, task_queue=queue, workflows=[Idle], activities=[idle]):
        report = await _polled(raw_client, queue, "workflow_pollers", "activity_pollers")

    assert report
    assert named(report, "workflow_pollers").ok
    assert named(report, "activity_pollers").ok
    assert "1 worker polled" in named(report, "activity_pollers").detail


async def test_a_queue_with_work_of_one_kind_only_is_healthy(
    raw_client: Client, fresh: Fresh
) -> None:
    queue = fresh.task_queue()
    async with Worker(raw_client, task_queue=queue, workflows=[Idle]):
        report = await _polled(raw_client, queue, "workflow_pollers")

    assert report
    assert named(report, "workflow_pollers").ok
    assert named(report, "activity_pollers").ok is None


async def _polled(client: Client, queue: str, *kinds: str) -> HealthReport:
    """The first report that sees these pollers."""

    async def seen() -> HealthReport | None:
        report = await check_temporal_health(client, task_queue=queue)
        return report if all(named(report, kind).ok for kind in kinds) else None

    report = await until(seen)
    assert report is not None
    return report


async def test_a_closed_port_is_unreachable_at_once(closed_port: int) -> None:
    client = await Client.connect(f"127.0.0.1:{closed_port}", lazy=True)

    started = time.monotonic()
    report = await check_temporal_health(client, task_queue="queue", timeout=2 * PATIENTLY)

    assert time.monotonic() - started < PATIENCE
    assert not report
    assert not report.reachable
    assert [check.name for check in report.checks] == ["connection"]
    assert report.checks[0].detail.startswith("unreachable: ")
    assert report.server_version is None
    assert report.latency is None


async def test_a_port_that_never_answers_takes_no_longer_than_the_deadline(
    silent_port: int,
) -> None:
    client = await Client.connect(f"127.0.0.1:{silent_port}", lazy=True)

    started = time.monotonic()
    report = await check_temporal_health(client, timeout=timedelta(seconds=0.5))

    assert 0.4 < time.monotonic() - started < PATIENCE
    assert not report.reachable
    assert named(report, "connection").detail == "unreachable: no answer within 0.5 s"


async def test_a_frozen_or_dead_server_is_unreachable_until_it_recovers() -> None:
    async with DevServer() as server:
        client = await Client.connect(server.address)
        assert await check_temporal_health(client)
        assert server.pid is not None

        async def is_unreachable() -> bool:
            report = await check_temporal_health(client, timeout=timedelta(seconds=0.5))
            return not report.reachable

        os.kill(server.pid, signal.SIGSTOP)
        await until(is_unreachable)  # the threads of the server stop one after the other
        os.kill(server.pid, signal.SIGCONT)
        await until(lambda: check_temporal_health(client))

        await server.kill()
        dead = await check_temporal_health(client)
        await server.start()
        await until(lambda: check_temporal_health(client))

    assert not dead
    assert not dead.reachable


async def test_a_connection_that_was_closed_is_reported_as_such(dev_server: DevServer) -> None:
    connection = await open_connection(TemporalSettings(address=dev_server.address))
    client = Client(connection.service_client)
    await connection.close()

    report = await check_temporal_health(client)

    assert not report.reachable
    assert "is closed" in named(report, "connection").detail


async def test_cancelling_the_check_cancels_it(silent_port: int) -> None:
    client = await Client.connect(f"127.0.0.1:{silent_port}", lazy=True)
    check = asyncio.create_task(check_temporal_health(client))
    await asyncio.sleep(0.05)

    check.cancel()

    with pytest.raises(asyncio.CancelledError):
        await check


async def test_checks_that_a_tenants_client_may_not_make_are_unknown(raw_client: Client) -> None:
    client = with_answers(
        raw_client, describe_namespace=FORBIDDEN, list_search_attributes=FORBIDDEN
    )

    report = await check_temporal_health(client)

    assert report
    assert named(report, "namespace").ok is None
    assert "may not do this" in named(report, "namespace").detail
    assert named(report, "search_attribute").ok, "a count shows what the list would"


async def test_a_tenants_client_still_sees_that_the_search_attribute_is_missing(
    raw_client: Client,
) -> None:
    client = with_answers(raw_client, list_search_attributes=FORBIDDEN)

    report = await check_temporal_health(client, search_attribute="nobodyMadeThis")

    assert named(report, "search_attribute").ok is False


async def test_pollers_that_may_not_be_seen_are_a_failure(
    raw_client: Client,
) -> None:
    client = with_answers(raw_client, describe_task_queue=FORBIDDEN)

    report = await check_temporal_health(client, task_queue="queue")

    assert not report
    assert "not visible to this client" in named(report, "workflow_pollers").detail


@pytest.mark.parametrize(
    ("code", "ok"),
    [
        (RPCStatusCode.UNIMPLEMENTED, None),
        (RPCStatusCode.PERMISSION_DENIED, False),
        (RPCStatusCode.UNAUTHENTICATED, False),
        (RPCStatusCode.INTERNAL, False),
    ],
)
async def test_a_refused_check_is_a_problem_unless_the_server_does_not_support_it(
    raw_client: Client, code: RPCStatusCode, ok: bool | None
) -> None:
    client = with_answers(raw_client, describe_namespace=refuse(status(code, "no")))

    report = await check_temporal_health(client)

    assert report.reachable
    assert named(report, "namespace").ok is ok
    assert report.healthy is (ok is None)


async def test_a_server_lost_between_two_checks_is_unreachable(raw_client: Client) -> None:
    lost = refuse(status(RPCStatusCode.UNAVAILABLE, "tcp connect error"))

    report = await check_temporal_health(with_answers(raw_client, describe_namespace=lost))

    assert not report.reachable
    assert named(report, "namespace").detail == "unreachable: tcp connect error"


@pytest.mark.parametrize("client_kind", ["healthy", "unreachable"])
async def test_the_report_becomes_json(
    raw_client: Client, closed_port: int, client_kind: str
) -> None:
    client = (
        raw_client
        if client_kind == "healthy"
        else await Client.connect(f"127.0.0.1:{closed_port}", lazy=True)
    )
    report = await check_temporal_health(client)

    read = json.loads(json.dumps(report.as_dict()))

    assert read["healthy"] is report.healthy
    assert read["reachable"] is report.reachable
    assert read["namespace"] == "default"
    assert read["server_version"] == report.server_version
    assert [check["name"] for check in read["checks"]] == [check.name for check in report.checks]
    assert (read["latency_ms"] is None) is (report.latency is None)


def test_a_failed_connection_becomes_a_report() -> None:
    error = ConnectionFailedError(
        "nobody listens on localhost:7233",
        reason=ConnectionFailureReason.REFUSED,
        address="localhost:7233",
        attempts=3,
        elapsed=timedelta(seconds=5),
    )

    report = HealthReport.of_failed_connection(error, namespace="staging")

    assert not report
    assert not report.reachable
    assert report.address == "localhost:7233"
    assert report.namespace == "staging"
    assert report.problems[0].detail == "nobody listens on localhost:7233"


@pytest.mark.parametrize("queue", ["", "  "])
async def test_an_empty_task_queue_is_refused(raw_client: Client, queue: str) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        await check_temporal_health(raw_client, task_queue=queue)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_timeout_that_is_not_positive_is_refused(raw_client: Client, seconds: int) -> None:
    with pytest.raises(ConfigurationError, match="not positive"):
        await check_temporal_health(raw_client, timeout=timedelta(seconds=seconds))
