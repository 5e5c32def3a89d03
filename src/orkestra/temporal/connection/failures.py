"""Why the SDK could not connect: the one place that reads its error texts.

For a failed connection the SDK raises a bare RuntimeError, ValueError or AssertionError around a
text of its core; there is nothing else to go by. A test pins the wording.
"""

import re
from dataclasses import dataclass
from typing import Final

from temporalio.service import RPCError

from orkestra.errors import ConnectionFailureReason as Reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt failed.

    Attributes:
        reason: What kind of failure it was.
        explanation: What happened and how to mend it, to stand behind a colon.
        is_hang_up: The server gave up talking to us, as one does that expects TLS.
    """

    reason: Reason
    explanation: str
    is_hang_up: bool = False


WANTS_TLS: Final = Failure(Reason.TLS, "the server expects TLS: configure temporal.tls")
"""Of a server that hung up on plain text, and then answered a TLS handshake."""

WANTS_CERTIFICATE: Final = Failure(
    Reason.TLS,
    "the server expects a client certificate: configure tls.client_cert and tls.client_key",
)
"""Of a server that hung up, and asks for a client's certificate, of which there is none."""

MAY_REFUSE_CERTIFICATE: Final = Failure(
    Reason.RESET, "the server closes the connection; it may be starting, or refuse tls.client_cert"
)
"""Of a server that hung up after it has asked for a client's certificate and got one."""

_NO_ANSWER: Final = Failure(Reason.TIMED_OUT, "no answer: check the address and the firewalls")
_HUNG_UP: Final = Failure(
    Reason.RESET,
    "the server closes the connection; it may be starting",
    is_hang_up=True,
)
_NO_TEMPORAL: Final = "what answers there is not a Temporal server"
_NOT_GRPC: Final = Failure(Reason.OTHER, _NO_TEMPORAL, is_hang_up=True)
_BAD_KEY: Final = Failure(
    Reason.BAD_CERTIFICATE, "tls.client_key is not a PEM private key without a password"
)

# A mark in the SDK's text and what it means; the first that is found counts.
_BEFORE_SENDING: Final = (
    ("invalid target URL", Failure(Reason.BAD_ADDRESS, "the address is malformed")),
    ("Invalid URI", Failure(Reason.BAD_ADDRESS, "the address or tls.server_name is malformed")),
    ("Invalid headers", Failure(Reason.OTHER, "grpc_meta holds what gRPC does not allow")),
    (
        "across forks",
        Failure(
            Reason.OTHER,
            "Temporal's runtime was started before this process was forked, and does not survive"
            " that: pass a Runtime made in this process, or start processes by spawn",
        ),
    ),
    (
        "InconsistentKeys(",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_key does not belong to tls.client_cert"),
    ),
    ("PrivateKeyParseError", _BAD_KEY),
    ("failed to parse private key", _BAD_KEY),
    (
        "NoCertificatesPresented",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_cert holds no PEM certificate"),
    ),
    (
        "Error(Transport, InvalidCertificate(",
        Failure(Reason.BAD_CERTIFICATE, "tls.client_cert holds a damaged certificate"),
    ),
)

_PROXY: Final = (
    (
        "CONNECT call failed with status: 407",
        Failure(Reason.UNAUTHENTICATED, "the proxy wants another user or password"),
    ),
    (
        "CONNECT call failed with status: 403",
        Failure(Reason.PERMISSION_DENIED, "the proxy does not let anybody through to there"),
    ),
    (
        "CONNECT call failed with status: ",
        Failure(Reason.UNAVAILABLE, "the proxy does not get through to there"),
    ),
    (
        "client error (Connect)\n\nCaused by:\n    Connection refused",
        Failure(Reason.REFUSED, "nothing listens at the address of the proxy"),
    ),
    (
        "client error (Connect)\n\nCaused by:\n    failed to lookup",
        Failure(Reason.UNKNOWN_HOST, "the host of the proxy is unknown"),
    ),
    ("client error (Connect)", Failure(Reason.UNAVAILABLE, "the proxy cannot be reached")),
)

_ON_THE_WAY: Final = (
    (
        "InvalidCertificate(UnknownIssuer",
        Failure(
            Reason.TLS,
            "no trusted authority has signed the server's certificate: name its authority in"
            " tls.server_ca_cert",
        ),
    ),
    ("InvalidCertificate(Expired", Failure(Reason.TLS, "the server's certificate has expired")),
    (
        "InvalidCertificate(NotValidForName",
        Failure(
            Reason.TLS,
            "the server's certificate is for another name: give that name as tls.server_name",
        ),
    ),
    ("InvalidCertificate(", Failure(Reason.TLS, "the server's certificate is not valid")),
    (
        "InvalidContentType",
        Failure(
            Reason.TLS, "the server does not speak TLS: set tls.disabled, or leave TLS settings out"
        ),
    ),
    (
        "AlertReceived(",
        Failure(Reason.TLS, "the server refuses this client's TLS: check tls.client_cert"),
    ),
    ("H2NotNegotiated", Failure(Reason.TLS, "the server speaks TLS, but not HTTP/2 below it")),
    ("PeerIncompatible(", Failure(Reason.TLS, "the server has no version of TLS in common")),
    ("InvalidMessage(", Failure(Reason.TLS, "the server's TLS makes no sense")),
    ('"dns error"', Failure(Reason.UNKNOWN_HOST, "the host is unknown: check the address and DNS")),
    ("ConnectionRefused", Failure(Reason.REFUSED, "nothing listens there: is the server up?")),
    ("TimedOut", _NO_ANSWER),
    ("HostUnreachable", Failure(Reason.UNAVAILABLE, "there is no route to the host")),
    ("NetworkUnreachable", Failure(Reason.UNAVAILABLE, "there is no route to the network")),
    ("ConnectionReset", _HUNG_UP),
    ("ConnectionAborted", _HUNG_UP),
    ("BrokenPipe", _HUNG_UP),
    ("UnexpectedEof", _HUNG_UP),
    ("connection closed", _HUNG_UP),
    ("Http2", _NOT_GRPC),
)

_STATUSES: Final = {
    "UNAUTHENTICATED": Failure(
        Reason.UNAUTHENTICATED,
        "the server does not accept the credentials: check api_key and tls.client_cert",
    ),
    "PERMISSION_DENIED": Failure(
        Reason.PERMISSION_DENIED, "the server does not permit this to these credentials"
    ),
    "UNAVAILABLE": Failure(Reason.UNAVAILABLE, "the server says that it is unavailable"),
    "RESOURCE_EXHAUSTED": Failure(Reason.UNAVAILABLE, "the server says that it is overloaded"),
    "DEADLINE_EXCEEDED": _NO_ANSWER,
    "CANCELLED": Failure(Reason.RESET, "the server ended the call"),
    "UNIMPLEMENTED": Failure(Reason.OTHER, _NO_TEMPORAL),
}

_STATUS_TEXT: Final = re.compile(r"call error after connection: Status \{ code: (\w+)")


def classify(error: Exception) -> Failure:
    """Say why an attempt to connect failed.

    Args:
        error: What the SDK, or a time-out around it, raised.
    """
    if isinstance(error, RPCError):
        return _from_status(error.status.name)
    if isinstance(error, TimeoutError):
        return _NO_ANSWER
    text, _, _ = str(error).partition("\n\nStack backtrace:")
    # A status ends with what caused it, which is nothing where the server itself has sent it.
    status, _, cause = text.rpartition("source: ")
    if (match := _STATUS_TEXT.search(status)) and cause.startswith("None"):
        return _from_status(re.sub(r"(?<!^)(?=[A-Z])", "_", match[1]).upper())
    for mark, failure in (*_BEFORE_SENDING, *_PROXY, *_ON_THE_WAY):
        if mark in text:
            return failure
    return Failure(Reason.OTHER, f"unexpected {type(error).__name__}, which is the cause")


def _from_status(name: str) -> Failure:
    known = _STATUSES.get(name)
    return known or Failure(Reason.OTHER, f"the server answers with the status {name}")
