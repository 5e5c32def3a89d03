"""Ports for a server that is started, killed and started again at the same address."""

import secrets
import socket
from typing import Final

from orkestra.errors import DevServerError

HOST: Final = "127.0.0.1"

# Below the ranges that Linux (from 32768) and macOS (from 49152) give to outgoing connections and
# to bind(0): while a killed server is down, nobody is handed its port by chance, and a client that
# keeps reconnecting cannot be given it as its own end and so connect to itself. Below Kubernetes'
# node ports (from 30000), too.
_FREE_PORTS: Final = range(20_000, 30_000)
_TRIES: Final = 200


def free_port(*, besides: int | None = None) -> int:
    """Choose a port that nothing listens on.

    Nothing keeps it until the server binds it: whoever starts the server tries again with
    another one where somebody was faster.

    Args:
        besides: A port that is already spoken for.

    Raises:
        DevServerError: No free port was found.
    """
    for _ in range(_TRIES):
        # Not from `random`: forked processes would all draw the same numbers.
        port = _FREE_PORTS[secrets.randbelow(len(_FREE_PORTS))]
        if port != besides and why_not(port) is None:
            return port
    msg = f"no free port found in {_TRIES} tries between {_FREE_PORTS[0]} and {_FREE_PORTS[-1]}"
    raise DevServerError(msg)


def require_free(port: int, *, option: str) -> None:
    """Refuse a port that cannot be listened on.

    Args:
        port: The port that was asked for.
        option: Name of the option that asked for it.

    Raises:
        DevServerError: Something listens there, or the system does not permit it.
    """
    if (reason := why_not(port)) is None:
        return
    msg = f"{option} {port} cannot be used on {HOST}: {reason}; free it, or leave {option} out"
    raise DevServerError(msg)


def why_not(port: int) -> str | None:
    """Say why nothing can listen on a port now, or None where it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does it; without it, closed connections of an earlier server count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None
