"""Checks of the doctor, in the order in which a connection is made and used.

The SDK reports every failure on the way to the server as "cannot connect". So the network is
checked step by step: DNS, TCP, TLS. Two things the server does not report at all are observed
instead: its clock, by the time it notes for a poll, and fairness, by the order in which it
dispatches activities.
"""

import asyncio
import socket
import ssl
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    PollActivityTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
)
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError

from orkestra.config import (
    CertificateSource,
    LangfuseSettings,
    OrkestraConfig,
    TemporalSettings,
    TenancySettings,
)
from orkestra.errors import OrkestraError
from orkestra.temporal.admin import find_unowned
from orkestra.temporal.guard import unguarded_client
from orkestra.temporal.health import HealthCheck, check_temporal_health

_EXPIRES_SOON: Final = timedelta(days=14)
_QUEUE: Final = "orkestra-doctor"  # the only task queue that the doctor itself uses
_MAX_SKEW_SECONDS: Final = 1.0
_DESCRIBE_EVERY_SECONDS: Final = 0.02
_MAX_SHOWN: Final = 3
_MAX_ROWS: Final = 1000
_MANY: Final = 120
_FEW: Final = 12
_POLLERS: Final = 4
_ACTIVITY_LIFETIME: Final = timedelta(seconds=60)
_SAME_IN_ALL_NAMESPACES: Final = frozenset({"connection", "server"})
# The health check itself says how to register a missing search attribute.
_FIXES: Final = {
    "connection": "start the server, or correct temporal.address",
    "namespace": "create it with `temporal operator namespace create`, or correct the name",
    "workflow_pollers": "start a worker for this queue: `orkestra worker`",
    "activity_pollers": "start a worker for this queue: `orkestra worker`",
}


@dataclass(frozen=True)
class Finding(HealthCheck):
    """Result of one check of the doctor.

    Attributes:
        name: Name of the check, for instance `tls` or `namespace`.
        ok: True if it passed, False if it found a problem, None if the result is unknown.
        detail: What was found.
        fix: What to do about it; empty if there is nothing to do, or the detail says it.
    """

    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings; truthy if there are no problems.

    Attributes:
        findings: Findings in the order in which a connection is made and used.
    """

    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings that need a fix."""
        return tuple(finding for finding in self.findings if finding.ok is False)

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis for JSON."""
        return {"healthy": bool(self), "findings": [asdict(each) for each in self.findings]}


async def check_network(settings: TemporalSettings, *, timeout: timedelta) -> list[Finding]:
    """Resolve the server's name, connect to it, and handshake if TLS is on, until one fails."""
    # From the right: an IPv6 host has colons of its own.
    host, _, port = settings.address.rpartition(":")
    host, seconds = host.strip("[]"), timeout.total_seconds()
    found = [await _check_dns(host, int(port), seconds)]
    if found[-1].ok:
        found.append(await _check_tcp(settings.address, host, int(port), seconds))
    if found[-1].ok and _uses_tls(settings):
        found.append(await _check_tls(settings, host, int(port), seconds))
    return found


async def _check_dns(host: str, port: int, seconds: float) -> Finding:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Finding("dns", ok=False, detail=f"{host!r}: no answer", fix="check the resolver")
    except OSError as error:
        fix = "check temporal.address, and the DNS of this machine"
        return Finding("dns", ok=False, detail=f"{host!r}: {error.strerror}", fix=fix)
    addresses = sorted({str(info[4][0]) for info in found})
    return Finding("dns", ok=True, detail=f"{host!r} is {', '.join(addresses)}")


async def _check_tcp(address: str, host: str, port: int, seconds: float) -> Finding:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        fix = "check the address, the firewalls, and whether a proxy is needed"
        return Finding("tcp", ok=False, detail=f"{address!r}: no answer", fix=fix)
    except OSError as error:
        detail = f"{address!r}: {error.strerror or 'no connection'}"
        return Finding("tcp", ok=False, detail=detail, fix=_FIXES["connection"])
    elapsed_ms = (time.perf_counter() - started) * 1000
    await _hang_up(writer)
    return Finding("tcp", ok=True, detail=f"{address!r} accepts connections ({elapsed_ms:.1f} ms)")


def _uses_tls(settings: TemporalSettings) -> bool:
    if settings.tls is None or settings.tls.disabled is None:
        # As the SDK decides it.
        return settings.has_api_key or settings.tls is not None
    return not settings.tls.disabled


async def _check_tls(settings: TemporalSettings, host: str, port: int, seconds: float) -> Finding:
    tls = settings.tls
    name = (tls and tls.server_name) or host
    try:
        context = _tls_context(tls.server_ca_cert if tls else None)
    except (OSError, ValueError):  # SSLError is an OSError
        detail, fix = "temporal.tls.server_ca_cert cannot be used", "correct the certificate"
        return Finding("tls", ok=False, detail=detail, fix=fix)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        fix = "set temporal.tls.server_ca_cert or server_name, or renew the server's certificate"
        return Finding("tls", ok=False, detail=f"{name!r}: {error.verify_message}", fix=fix)
    except (TimeoutError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else "the handshake failed"
        fix = "check that this port speaks TLS; temporal.tls.disabled turns it off"
        return Finding("tls", ok=False, detail=f"{name!r}: {reason}", fix=fix)
    certificate = writer.get_extra_info("peercert")
    version = writer.get_extra_info("ssl_object").version()
    await _hang_up(writer)
    left = timedelta(seconds=ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time())
    detail = f"{name!r} with {version}, its certificate expires in {left.days} days"
    fix = "" if left > _EXPIRES_SOON else "renew the server's certificate soon"
    return Finding("tls", ok=True, detail=detail, fix=fix)


def _tls_context(authority: CertificateSource | None) -> ssl.SSLContext:
    """Verify as the SDK does. Client certificates are tested by the connection itself."""
    context = ssl.create_default_context()
    if authority is not None:
        # Trusts this authority only; the default context would also trust the system's.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        pem = authority.data.get_secret_value() if authority.data else ""
        if authority.path is not None:
            pem = authority.path.read_text(encoding="ascii")
        context.load_verify_locations(cadata=pem)
    # gRPC servers may refuse a handshake without HTTP/2.
    context.set_alpn_protocols(["h2"])
    return context


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    # Not close(): a TLS close waits for the answer of the other side.
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def check_namespace(
    client: Client, tenancy: TenancySettings, *, timeout: timedelta, is_first: bool
) -> list[Finding]:
    """Check the server and a namespace; the server only for the first namespace."""
    attribute = None if tenancy.mode == "off" else tenancy.search_attribute
    report = await check_temporal_health(client, timeout=timeout, search_attribute=attribute)
    if is_first:
        return [_finding(check) for check in report.checks]
    return [
        _finding(check, f"in {client.namespace!r}: ")
        for check in report.checks
        if check.name not in _SAME_IN_ALL_NAMESPACES
    ]


async def check_queue(client: Client, task_queue: str, *, timeout: timedelta) -> list[Finding]:
    """Check that workers poll a task queue."""
    report = await check_temporal_health(
        client, timeout=timeout, task_queue=task_queue, search_attribute=None
    )
    return [_finding(check) for check in report.checks if check.name.endswith("_pollers")]


def _finding(check: HealthCheck, prefix: str = "") -> Finding:
    fix = _FIXES.get(check.name, "") if check.ok is False else ""
    return Finding(check.name, ok=check.ok, detail=prefix + check.detail, fix=fix)


async def check_clocks(client: Client, *, timeout: timedelta) -> Finding:
    """Compare this machine's clock with the server's, which notes the time of each poll."""
    # B2, B3: polls and task tokens are refused to a bound client, even one of an operator.
    bare, identity = unguarded_client(client), f"{_QUEUE}-{uuid.uuid4().hex[:8]}"
    queue = TaskQueue(name=_QUEUE)
    poll = PollActivityTaskQueueRequest(
        namespace=bare.namespace, identity=identity, task_queue=queue
    )
    describe = DescribeTaskQueueRequest(
        namespace=bare.namespace,
        task_queue=queue,
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    # The wall clock on purpose: it is what is compared with the server's.
    earliest = time.time()
    # A poll of an empty queue: nothing is ever dispatched, but the server notes the poller.
    polling = asyncio.ensure_future(
        bare.workflow_service.poll_activity_task_queue(poll, timeout=timeout)
    )
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            while True:
                seen = await bare.workflow_service.describe_task_queue(describe)
                latest = time.time()
                for poller in seen.pollers:
                    if poller.identity == identity:
                        noted = poller.last_access_time.ToNanoseconds() / 1e9
                        return _clock_finding(noted - latest, noted - earliest)
                await asyncio.sleep(_DESCRIBE_EVERY_SECONDS)
    except (RPCError, TimeoutError) as error:
        reason = error.message if isinstance(error, RPCError) else "the server noted no poll"
        return Finding("clock", ok=None, detail=f"unknown: {reason}")
    finally:
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)


def _clock_finding(least: float, most: float) -> Finding:
    """The server noted the poll between two readings of this clock, so the skew has two bounds."""
    if least <= _MAX_SKEW_SECONDS and most >= -_MAX_SKEW_SECONDS:
        within = max(abs(least), abs(most))
        return Finding("clock", ok=True, detail=f"within {within:.2f} s of the server's")
    is_behind = least > _MAX_SKEW_SECONDS
    skew = abs(least if is_behind else most)
    detail = f"{skew:.1f} s {'behind' if is_behind else 'ahead of'} the server's"
    fix = "synchronise the clocks: otherwise latencies and traces are wrong"
    return Finding("clock", ok=False, detail=detail, fix=fix)


async def check_fairness(client: Client, *, timeout: timedelta) -> Finding:
    """Queue many activities of one fairness key before a few of another, and see the order.

    A fair server dispatches the few early; one that is not, at the end. The finding is unknown if
    the server does not support standalone activities.
    """
    bare = unguarded_client(client)
    queue = f"{_QUEUE}-{uuid.uuid4().hex[:8]}"
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            # All of the many before the first of the few.
            for key, count in (("many", _MANY), ("few", _FEW)):
                await asyncio.gather(*(_start_activity(bare, queue, key) for _ in range(count)))
            order = await _dispatch_order(bare, queue)
    except (RPCError, TimeoutError) as error:
        reason = error.message if isinstance(error, RPCError) else "no answer in time"
        return Finding("fairness", ok=None, detail=f"unknown: {reason}")
    first = order.index("few") + 1
    detail = f"the first of {_FEW} tasks queued behind {_MANY} was dispatched as number {first}"
    # Seen with the usual four partitions: 7 to 20 if fairness is on, 50 to 81 if it is off.
    if first <= _MANY // 4:
        return Finding("fairness", ok=True, detail=detail)
    fix = (
        "set matching.useNewMatcher and matching.enableFairness in the server's dynamic"
        " configuration"
    )
    return Finding("fairness", ok=False, detail=f"{detail}: fairness is off", fix=fix)


async def _start_activity(client: Client, queue: str, key: str) -> None:
    await client.start_activity(
        _QUEUE,
        key,
        id=f"{queue}-{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        # Tasks that the probe leaves behind when it is interrupted expire.
        schedule_to_close_timeout=_ACTIVITY_LIFETIME,
        priority=Priority(fairness_key=f"{_QUEUE}-{key}"),
    )


async def _dispatch_order(client: Client, queue: str) -> list[str]:
    """Poll and complete all tasks, and return their fairness keys in order of arrival."""
    order: list[str] = []
    pollers = [asyncio.ensure_future(_poll(client, queue, order)) for _ in range(_POLLERS)]
    try:
        # The first to return has seen the last task; the other polls would wait for a minute.
        done, _ = await asyncio.wait(pollers, return_when=asyncio.FIRST_COMPLETED)
        for poller in done:
            poller.result()
    finally:
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
    return order


async def _poll(client: Client, queue: str, order: list[str]) -> None:
    poll = PollActivityTaskQueueRequest(
        namespace=client.namespace, identity=_QUEUE, task_queue=TaskQueue(name=queue)
    )
    while len(order) < _MANY + _FEW:
        task = await client.workflow_service.poll_activity_task_queue(poll)
        # A long poll that timed out.
        if not task.task_token:
            continue
        order.append(task.priority.fairness_key.removeprefix(f"{_QUEUE}-"))
        await client.workflow_service.respond_activity_task_completed(
            RespondActivityTaskCompletedRequest(
                namespace=client.namespace, task_token=task.task_token, identity=_QUEUE
            )
        )


async def check_ownership(client: Client, *, timeout: timedelta) -> Finding:
    """Look for IDs that have a tenant's prefix and are not the tenant's."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            found = await find_unowned(client, limit=_MAX_ROWS)
    except (RPCError, TimeoutError, OrkestraError) as error:
        return Finding("ownership", ok=None, detail=f"unknown: {str(error) or 'no answer in time'}")
    if not found:
        detail = "every ID with a tenant's prefix belongs to that tenant"
        return Finding("ownership", ok=True, detail=detail)
    ids = ", ".join(repr(each.id) for each in found[:_MAX_SHOWN])
    more = f" and {len(found) - _MAX_SHOWN} more" if len(found) > _MAX_SHOWN else ""
    detail = f"{ids}{more} have a tenant's prefix without its attribute"
    fix = "let them end or rename them, or give the tenant another ID"
    return Finding("ownership", ok=False, detail=detail, fix=fix)


async def check_langfuse(config: OrkestraConfig, *, timeout: timedelta) -> list[Finding]:
    """Try the keys of the configuration at Langfuse, those of single tenants included."""
    settings = config.langfuse
    own = {
        tenant: settings.for_project(record.langfuse)
        for tenant, record in config.tenants.items()
        if record.langfuse is not None and settings.enabled is not False
    }
    if not settings.is_on and not own:
        reason = "switched off" if settings.enabled is False else "no keys"
        return [Finding("langfuse", ok=None, detail=f"tracing is off: {reason}")]
    if find_spec("langfuse") is None:
        fix = 'pip install "orkestra-core[langfuse]"'
        return [Finding("langfuse", ok=False, detail="its SDK is not installed", fix=fix)]
    shared = {"": settings} if settings.is_on else {}
    asked = {**shared, **own}
    return list(await asyncio.gather(*(_check_project(*each, timeout) for each in asked.items())))


async def _check_project(tenant: str, settings: LangfuseSettings, timeout: timedelta) -> Finding:
    from orkestra.langfuse.api import project_of  # noqa: PLC0415 - an extra brings what it needs

    where = f"of tenant {tenant!r}: " if tenant else ""
    where += repr(settings.base_url)
    keys = f"tenants.{tenant}.langfuse" if tenant else "langfuse"
    try:
        project = await project_of(settings, timeout=timeout)
    except PermissionError as error:
        fix = f"check that {keys}.public_key and secret_key belong to this base_url"
        return Finding("langfuse", ok=False, detail=f"{where}: {error}", fix=fix)
    except ConnectionError as error:
        fix = f"check {keys}.base_url and the network: until then workflows run without traces"
        return Finding("langfuse", ok=False, detail=f"{where}: {error}", fix=fix)
    return Finding("langfuse", ok=True, detail=f"{where} accepts traces for project {project!r}")
