"""The Temporal service itself: credentials, namespaces, attribute, workers, clocks.

The way to the server, step by step: its name, its port, its certificate.

The SDK says of all of this only that it cannot connect.

What the doctor found, one finding a line.

Langfuse: whether the shared project and those of tenants take traces.
"""

import asyncio
import socket
import ssl
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, PollActivityTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orkestra.config import (
    CertificateSource,
    LangfuseProject,
    LangfuseSettings,
    OrkestraConfig,
    TemporalSettings,
)
from orkestra.errors import OrkestraError
from orkestra.temporal.admin import find_unowned
from orkestra.temporal.guard import unguarded_client
from orkestra.temporal.health import HealthCheck, check_temporal_health


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it was, for instance `tls` or `namespace`.
        ok: True where all is well, False where not, None where nothing can be said.
        detail: What was found.
        mend: What to do about it; empty where there is nothing to do.
    """

    name: str
    ok: bool | None
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was looked at; truthy where nothing is wrong.

    Attributes:
        findings: What was found, in the order in which a connection is made and used.
    """

    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that need mending."""
        return tuple(finding for finding in self.findings if finding.ok is False)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON would have it."""
        return {
            "healthy": bool(self),
            "findings": [
                {"name": each.name, "ok": each.ok, "detail": each.detail, "mend": each.mend}
                for each in self.findings
            ],
        }


QUEUE: Final = "orkestra-doctor"
"""The only task queue that the doctor itself touches."""

_SHOWN: Final = 3
_MAX_ROWS: Final = 1000
_MAX_SKEW: Final = timedelta(seconds=1)
_LOOK_EVERY: Final = 0.02
_SHARED: Final = frozenset({"connection", "server"})
_MENDS: Final = {
    "connection": "start the server, or correct temporal.address",
    "namespace": "create it by `temporal operator namespace create`, or correct the name",
    "search_attribute": "run `orkestra search-attributes ensure`",
    "workflow_pollers": "start a worker of this queue: `orkestra worker`",
    "activity_pollers": "start a worker of this queue: `orkestra worker`",
}


async def examine_namespace(
    client: Client, config: OrkestraConfig, *, timeout: timedelta, is_first: bool
) -> list[Finding]:
    """Look at the server and a namespace.

    Args:
        client: A client of the namespace.
        config: Says which search attribute there should be.
        timeout: How long it may take.
        is_first: Whether to say what is the same for all namespaces, too.
    """
    attribute = None if config.tenancy.mode == "off" else config.tenancy.search_attribute
    report = await check_temporal_health(client, timeout=timeout, search_attribute=attribute)
    checks = [check for check in report.checks if is_first or check.name not in _SHARED]
    return [_finding(check, "" if is_first else f"in {client.namespace!r}: ") for check in checks]


async def examine_queue(client: Client, task_queue: str, *, timeout: timedelta) -> list[Finding]:
    """Look for workers that poll a task queue."""
    report = await check_temporal_health(
        client, timeout=timeout, task_queue=task_queue, search_attribute=None
    )
    return [_finding(check) for check in report.checks if check.name.endswith("_pollers")]


async def examine_clocks(client: Client, *, timeout: timedelta) -> Finding:
    """Compare this machine's clock with the server's.

    The server says no time by itself, but notes when a worker polls: the doctor polls a queue of
    its own and looks at the note.
    """
    bare, identity = unguarded_client(client), f"{QUEUE}-{uuid.uuid4().hex[:8]}"
    queue = TaskQueue(name=QUEUE)
    poll = PollActivityTaskQueueRequest(
        namespace=bare.namespace, identity=identity, task_queue=queue
    )
    describe = DescribeTaskQueueRequest(
        namespace=bare.namespace,
        task_queue=queue,
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    earliest = time.time()
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
                        return _skew(noted - latest, noted - earliest)
                await asyncio.sleep(_LOOK_EVERY)
    except (RPCError, TimeoutError) as error:
        why = error.message if isinstance(error, RPCError) else "the server noted no poll"
        return Finding("clock", ok=None, detail=f"cannot be compared: {why}")
    finally:
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)


async def examine_ownership(client: Client, *, timeout: timedelta) -> Finding:
    """Look for IDs under a tenant's prefix that are not the tenant's."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            found = await find_unowned(client, limit=_MAX_ROWS)
    except (RPCError, TimeoutError, OrkestraError) as error:
        why = str(error) or "no answer in time"
        return Finding("ownership", ok=None, detail=f"cannot be told: {why}")
    if not found:
        return Finding("ownership", ok=True, detail="no tenant can reach what is not its own")
    ids = ", ".join(repr(each.id) for each in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    detail = f"{ids}{more} stand under a tenant's prefix without its attribute"
    mend = "let them end or rename them, or give the tenant another ID"
    return Finding("ownership", ok=False, detail=detail, mend=mend)


def _finding(check: HealthCheck, prefix: str = "") -> Finding:
    mend = _MENDS.get(check.name, "") if check.ok is False else ""
    return Finding(check.name, ok=check.ok, detail=prefix + check.detail, mend=mend)


def _skew(least: float, most: float) -> Finding:
    """What is known of the difference: the server's note was made between two looks at ours."""
    limit = _MAX_SKEW.total_seconds()
    if least <= limit and most >= -limit:
        within = max(abs(least), abs(most))
        return Finding("clock", ok=True, detail=f"within {within:.2f} s of the server's")
    away = least if least > limit else -most
    which = "behind" if least > limit else "ahead of"
    detail = f"{abs(away):.1f} s {which} the server's"
    mend = "synchronise the clocks: latencies and traces would be wrong"
    return Finding("clock", ok=False, detail=detail, mend=mend)


_SOON: Final = timedelta(days=14)


class _Unverifiable(Exception):  # noqa: N818 - it never leaves this module
    """The authority to verify the server by cannot be read."""


async def examine_network(settings: TemporalSettings, *, timeout: timedelta) -> list[Finding]:
    """Look the server's name up, open its port, and shake hands where TLS is on.

    Args:
        settings: Where the server is, and how TLS is set.
        timeout: How long each step may take.

    Returns:
        A finding for each step, up to the first that failed.
    """
    host, _, port = settings.address.rpartition(":")
    host, seconds = host.strip("[]"), timeout.total_seconds()
    found = [await _dns(host, int(port), seconds)]
    if found[-1].ok:
        found.append(await _tcp(settings.address, host, int(port), seconds))
    if found[-1].ok and _uses_tls(settings):
        found.append(await _tls(settings, host, int(port), seconds))
    return found


async def _dns(host: str, port: int, seconds: float) -> Finding:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Finding("dns", ok=False, detail=f"{host!r}: no answer", mend="check the resolver")
    except OSError as error:
        mend = "check temporal.address, and the DNS of this machine"
        return Finding("dns", ok=False, detail=f"{host!r}: {error.strerror}", mend=mend)
    addresses = sorted({str(info[4][0]) for info in found})
    return Finding("dns", ok=True, detail=f"{host!r} is {', '.join(addresses)}")


async def _tcp(address: str, host: str, port: int, seconds: float) -> Finding:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        mend = "check the address, the firewalls, and whether a proxy is needed"
        return Finding("tcp", ok=False, detail=f"{address!r}: no answer", mend=mend)
    except OSError as error:
        why = error.strerror or "no connection"
        mend = "start the server, or correct temporal.address"
        return Finding("tcp", ok=False, detail=f"{address!r}: {why}", mend=mend)
    elapsed = (time.perf_counter() - started) * 1000
    await _hang_up(writer)
    return Finding("tcp", ok=True, detail=f"{address!r} accepts connections ({elapsed:.1f} ms)")


async def _tls(settings: TemporalSettings, host: str, port: int, seconds: float) -> Finding:
    tls = settings.tls
    name = (tls and tls.server_name) or host
    try:
        context = _context(tls.server_ca_cert if tls else None)
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except _Unverifiable as error:
        mend = "correct temporal.tls.server_ca_cert"
        return Finding("tls", ok=False, detail=str(error), mend=mend)
    except ssl.SSLCertVerificationError as error:
        mend = "set temporal.tls.server_ca_cert or server_name, or renew the server's certificate"
        return Finding("tls", ok=False, detail=f"{name!r}: {error.verify_message}", mend=mend)
    except ssl.SSLError as error:
        mend = "check that this port speaks TLS; temporal.tls.disabled turns it off"
        return Finding("tls", ok=False, detail=f"{name!r}: {error.reason}", mend=mend)
    except (TimeoutError, OSError):
        mend = "check that this port speaks TLS; temporal.tls.disabled turns it off"
        return Finding("tls", ok=False, detail=f"{name!r}: the handshake failed", mend=mend)
    certificate, version = writer.get_extra_info("peercert"), _version(writer)
    await _hang_up(writer)
    left = timedelta(seconds=ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time())
    detail = f"{name!r} by {version}, its certificate holds for {left.days} days"
    mend = "" if left > _SOON else "renew the server's certificate soon"
    return Finding("tls", ok=True, detail=detail, mend=mend)


def _uses_tls(settings: TemporalSettings) -> bool:
    if settings.tls is None or settings.tls.disabled is None:
        return settings.has_api_key or settings.tls is not None
    return not settings.tls.disabled


def _context(authority: CertificateSource | None) -> ssl.SSLContext:
    """Verify as the SDK does; client certificates are for the connection itself to show."""
    context = ssl.create_default_context()
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=_pem(authority))
        except (OSError, ValueError) as error:  # SSLError is an OSError
            msg = "temporal.tls.server_ca_cert cannot be used"
            raise _Unverifiable(msg) from error
    context.set_alpn_protocols(["h2"])
    return context


def _pem(source: CertificateSource) -> str:
    if source.path is None:
        return source.data.get_secret_value() if source.data else ""
    return source.path.read_text(encoding="ascii")


def _version(writer: asyncio.StreamWriter) -> str:
    return str(writer.get_extra_info("ssl_object").version())


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def examine_langfuse(config: OrkestraConfig, *, timeout: timedelta) -> list[Finding]:
    """Ask Langfuse about the keys of the configuration, the tenants' own included.

    Args:
        config: Has the keys.
        timeout: How long each step of a request may take.
    """
    settings = config.langfuse
    own = {
        tenant: _of_project(settings, record.langfuse)
        for tenant, record in config.tenants.items()
        if record.langfuse is not None and settings.enabled is not False
    }
    if not settings.is_on and not own:
        why = "switched off" if settings.enabled is False else "no keys"
        return [Finding("langfuse", ok=None, detail=f"tracing is off: {why}")]
    if find_spec("langfuse") is None:
        mend = 'pip install "orkestra-core[langfuse]"'
        return [Finding("langfuse", ok=False, detail="its SDK is not installed", mend=mend)]
    shared = {"": settings} if settings.is_on else {}
    asked = {**shared, **own}
    return list(await asyncio.gather(*(_ask(*each, timeout) for each in asked.items())))


async def _ask(tenant: str, settings: LangfuseSettings, timeout: timedelta) -> Finding:
    from orkestra.langfuse.api import project_of  # noqa: PLC0415 - an extra brings what it needs

    whose = f"of tenant {tenant!r}: " if tenant else ""
    where = f"{whose}{settings.base_url!r}"
    keys = f"tenants.{tenant}.langfuse" if tenant else "langfuse"
    try:
        project = await project_of(settings, timeout=timeout)
    except PermissionError as error:
        mend = f"check {keys}.public_key and secret_key, and that they are of this base_url"
        return Finding("langfuse", ok=False, detail=f"{where}: {error}", mend=mend)
    except ConnectionError as error:
        mend = f"check {keys}.base_url and the network: workflows run, their traces are lost"
        return Finding("langfuse", ok=False, detail=f"{where}: {error}", mend=mend)
    return Finding("langfuse", ok=True, detail=f"{where} takes traces for project {project!r}")


def _of_project(settings: LangfuseSettings, project: LangfuseProject) -> LangfuseSettings:
    return settings.model_copy(
        update={
            "public_key": project.public_key,
            "secret_key": project.secret_key,
            "base_url": project.base_url or settings.base_url,
        }
    )
