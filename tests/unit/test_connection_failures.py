"""What the SDK's texts mean. tests/faults provokes them; these are what it said, word for word."""

import pytest
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import ConnectionFailureReason as Reason
from orkestra.temporal.connection.connect import classify

CONNECT = "Failed client connect: Server connection error: tonic::transport::Error(Transport, "
CALL = "Failed client connect: `get_system_info` call error after connection: Status { code: "
TRANSPORT = 'Unknown, message: "transport error", source: Some(tonic::transport::Error(Transport, '
DNS = (
    '"dns error", Custom { kind: Uncategorized, error:'
    ' "failed to lookup address information: Name or service not known" }'
)
CANCELLED = (
    'message: "operation was canceled", source: Some(tonic::transport::Error(Transport,'
    ' hyper::Error(Canceled, "connection closed")))'
)
ANSWER = 'message: "no", metadata: MetadataMap { headers: {"server": "x"} }, source: None }'


def custom(error: str) -> str:
    return f"{CONNECT}ConnectError(Custom {{ kind: InvalidData, error: {error} }}))"


def os_error(kind: str) -> str:
    return (
        f'{CONNECT}ConnectError(ConnectError("tcp connect error", 127.0.0.1:1, '
        f'Os {{ code: 1, kind: {kind}, message: "x" }})))'
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (os_error("ConnectionRefused"), Reason.REFUSED),
        (os_error("ConnectionReset"), Reason.RESET),
        (os_error("TimedOut"), Reason.TIMED_OUT),
        (os_error("HostUnreachable"), Reason.UNAVAILABLE),
        (os_error("NetworkUnreachable"), Reason.UNAVAILABLE),
        (
            f"{CONNECT}ConnectError(ConnectError({DNS})))",
            Reason.UNKNOWN_HOST,
        ),
        (custom("InvalidCertificate(UnknownIssuer)"), Reason.TLS),
        (custom("InvalidCertificate(Revoked)"), Reason.TLS),
        (custom("InvalidMessage(InvalidContentType)"), Reason.TLS),
        (custom("InvalidMessage(MessageTooLarge)"), Reason.TLS),
        (custom("AlertReceived(CertificateRequired)"), Reason.TLS),
        (custom("PeerIncompatible(Tls12NotOffered)"), Reason.TLS),
        (f"{CONNECT}ConnectError(H2NotNegotiated))", Reason.TLS),
        (
            f'{CONNECT}ConnectError(Custom {{ kind: UnexpectedEof, error: "tls handshake eof" }}))',
            Reason.RESET,
        ),
        (f"{CONNECT}InconsistentKeys(KeyMismatch))", Reason.BAD_CERTIFICATE),
        (f"{CONNECT}InvalidCertificate(BadEncoding))", Reason.BAD_CERTIFICATE),
        (f"{CONNECT}NoCertificatesPresented)", Reason.BAD_CERTIFICATE),
        (f"{CONNECT}PrivateKeyParseError)", Reason.BAD_CERTIFICATE),
        (
            f"{CALL}Cancelled, {CANCELLED} }}",
            Reason.RESET,
        ),
        (
            (
                f"{CALL}{TRANSPORT}hyper::Error(Io, Custom {{ kind: BrokenPipe, error:"
                ' "stream closed because of a broken pipe" }))) }'
            ),
            Reason.RESET,
        ),
        (f"{CALL}{TRANSPORT}hyper::Error(Io, Kind(ConnectionReset)))) }}", Reason.RESET),
        (
            (
                f'{CALL}Internal, message: "h2 protocol error: http2 error", source: Some(tonic::'
                "transport::Error(Transport, hyper::Error(Http2, Error { kind:"
                ' GoAway(b"", FRAME_SIZE_ERROR, Library) }))) }'
            ),
            Reason.OTHER,
        ),
        (f"{CALL}Unauthenticated, {ANSWER}", Reason.UNAUTHENTICATED),
        (f"{CALL}PermissionDenied, {ANSWER}", Reason.PERMISSION_DENIED),
        (f"{CALL}Unavailable, {ANSWER}", Reason.UNAVAILABLE),
        (f"{CALL}ResourceExhausted, {ANSWER}", Reason.UNAVAILABLE),
        (f"{CALL}DeadlineExceeded, {ANSWER}", Reason.TIMED_OUT),
        (f"{CALL}Cancelled, {ANSWER}", Reason.RESET),
        (f"{CALL}Unimplemented, {ANSWER}", Reason.OTHER),
        (f"{CALL}InvalidArgument, {ANSWER}", Reason.OTHER),
        ("Failed client connect: Invalid URI: InvalidUri(InvalidUriChar)", Reason.BAD_ADDRESS),
        ("invalid target URL: invalid port number", Reason.BAD_ADDRESS),
        (
            "Cannot create client across forks (original runtime PID is 1, current is 2)",
            Reason.OTHER,
        ),
        ("Failed client connect: something new", Reason.OTHER),
    ],
)
def test_a_text_of_the_sdk_has_one_meaning(text, reason):
    failure = classify(RuntimeError(text))
    assert failure.reason is reason
    assert failure.explanation
    assert "tonic" not in failure.explanation


def test_what_a_server_writes_into_its_status_decides_nothing():
    text = f"{CALL}PermissionDenied, {ANSWER}".replace('"no"', '"ConnectionRefused dns error"')
    assert classify(RuntimeError(text)).reason is Reason.PERMISSION_DENIED


def test_a_status_decides_where_there_is_one():
    error = RPCError("ConnectionRefused", RPCStatusCode.UNAUTHENTICATED, b"")
    assert classify(error).reason is Reason.UNAUTHENTICATED


def test_an_unknown_error_is_named_by_its_type_alone():
    failure = classify(RuntimeError("api_key=s3cret"))
    assert failure.reason is Reason.OTHER
    assert "RuntimeError" in failure.explanation
    assert "s3cret" not in failure.explanation
