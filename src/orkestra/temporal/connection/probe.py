"""Asking a server whether it speaks TLS, once it has hung up on plain text.

Servers in Go, Temporal's among them, answer plain text on a TLS port by closing the connection,
which looks like a server that is not ready yet. Retrying would never end well.
"""

import asyncio
import ssl
from contextlib import suppress


async def speaks_tls(address: str, *, timeout: float) -> bool:
    """Whether the server answers a TLS handshake; nothing else is sent to it.

    Args:
        address: `host:port`; an IPv6 host stands in brackets.
        timeout: How many seconds to wait for the answer.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who it is does not matter, nothing is entrusted to it
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (OSError, ValueError):  # TimeoutError and SSLError are kinds of OSError
        return False
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
    return True
