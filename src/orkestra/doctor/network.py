"""The way to the server, step by step: its name, its port, its certificate.

The SDK says of all of this only that it cannot connect.
"""

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from datetime import timedelta
from typing import Final

from orkestra.config import CertificateSource, TemporalSettings
from orkestra.doctor.findings import Finding

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
