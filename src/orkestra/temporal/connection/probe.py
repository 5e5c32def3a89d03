"""Asking a server about TLS, once it has hung up without saying why.

Servers in Go, Temporal's among them, answer plain text on a TLS port by closing the connection;
some close it as silently on clients without a certificate. Both look like a server that is not
ready yet, and trying again would never end well.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

_CERTIFICATE_REQUEST: Final = 13  # of the messages of a handshake, in TLS 1.2 and 1.3


@dataclass(slots=True)
class TlsAnswer:
    """What a server does when somebody wants to speak TLS with it.

    Attributes:
        speaks_tls: It has answered the handshake.
        asks_for_certificate: It has asked for the client's certificate.
    """

    speaks_tls: bool = False
    asks_for_certificate: bool = False


async def probe_tls(address: str, *, timeout: float) -> TlsAnswer:
    """Begin a TLS handshake with a server; nothing else is sent to it.

    Args:
        address: `host:port`; an IPv6 host stands in brackets.
        timeout: How many seconds to wait for the answer.
    """
    host, _, port = address.rpartition(":")
    answer = TlsAnswer()
    try:
        async with asyncio.timeout(timeout):
            context = _listening_context(answer)
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (OSError, ValueError):  # TimeoutError and SSLError are kinds of OSError
        return answer
    answer.speaks_tls = True
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
    return answer


def _listening_context(answer: TlsAnswer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who it is does not matter, nothing is entrusted to it
    context.set_alpn_protocols(["h2"])

    def listen(*message: Any) -> None:
        _, direction, _, _, kind, _ = message
        if direction == "read" and kind == _CERTIFICATE_REQUEST:
            answer.speaks_tls = answer.asks_for_certificate = True

    # There is no public way to hear of it. Where it goes away, such servers are tried again.
    with suppress(AttributeError):
        context._msg_callback = listen  # type: ignore[attr-defined] # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return context
