"""Each way in which connecting fails, on real sockets: its reason, and whether it is retried."""

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr
from temporalio.service import RPCStatusCode

from orkestra.config import CertificateSource, TemporalSettings, TlsSettings
from orkestra.devserver import DevServer
from orkestra.devserver.server import free_port
from orkestra.errors import ConnectionFailedError, ConnectionFailureReason
from orkestra.temporal.connection import open_connection
from tests.faults.certificates import pem, server_side, trusting
from tests.support.listeners import (
    Listener,
    answering,
    hanging_up,
    proxy_to,
    resetting,
    silent,
    web_server,
)
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENTLY, until

Reason = ConnectionFailureReason

DEADLINE = timedelta(seconds=1)
SECRET = "s3cret-api-key"


async def failure(address: str, **settings: Any) -> ConnectionFailedError:
    with pytest.raises(ConnectionFailedError) as caught:
        await open_connection(TemporalSettings(address=address, **settings))
    error = caught.value
    assert error.address == address
    assert repr(address) in str(error)
    assert "\n" not in str(error)
    return error


async def fails_at_once(reason: Reason, address: str, **settings: Any) -> ConnectionFailedError:
    started = time.monotonic()
    error = await failure(address, **settings)
    assert error.reason is reason
    assert error.attempts <= 1
    assert error.elapsed <= timedelta(seconds=time.monotonic() - started)
    return error


async def fails_at_the_deadline(
    reason: Reason, address: str, **settings: Any
) -> ConnectionFailedError:
    """On a busy machine one attempt may take all the time, and is given more then."""
    for deadline in (DEADLINE, 4 * DEADLINE, 16 * DEADLINE):
        error = await failure(address, connect_deadline=deadline, **settings)
        if error.attempts > 1:
            break
    assert error.reason is reason
    assert error.attempts > 1
    assert f"{error.attempts} attempts" in str(error)
    return error


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


# What may heal by itself


async def test_a_port_where_nothing_listens_is_refused():
    await fails_at_the_deadline(Reason.REFUSED, f"127.0.0.1:{free_port()}")


async def test_a_host_without_an_address_is_unknown():
    await fails_at_the_deadline(Reason.UNKNOWN_HOST, "no-such-host.invalid:7233")


async def test_a_server_that_resets_connections_is_a_reset(stack):
    server = await stack.enter_async_context(resetting())
    await fails_at_the_deadline(Reason.RESET, server.address)


async def test_a_server_that_closes_connections_is_probed_for_tls_and_reported_as_a_reset(stack):
    server = await stack.enter_async_context(hanging_up())
    await fails_at_the_deadline(Reason.RESET, server.address)


@pytest.mark.parametrize("tls", [None, TlsSettings(disabled=False, server_name="x.example")])
async def test_a_server_that_never_answers_times_out_and_leaves_no_socket(stack, tls):
    server = await stack.enter_async_context(silent())
    sockets = Sockets(server.address)
    short = timedelta(seconds=0.2)
    error = await fails_at_the_deadline(
        Reason.TIMED_OUT, server.address, connect_timeout=short, tls=tls
    )
    assert 1 < server.accepted <= error.attempts
    assert await sockets.are_gone()


async def test_one_attempt_never_outlasts_the_deadline(stack):
    server = await stack.enter_async_context(silent())
    settings = {"connect_deadline": timedelta(seconds=0.4), "connect_timeout": 2 * PATIENTLY}
    error = await failure(server.address, **settings)
    assert error.reason is Reason.TIMED_OUT
    assert error.attempts == 1
    assert error.elapsed < PATIENTLY


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (RPCStatusCode.UNAVAILABLE, Reason.UNAVAILABLE),
        (RPCStatusCode.RESOURCE_EXHAUSTED, Reason.UNAVAILABLE),
        (RPCStatusCode.DEADLINE_EXCEEDED, Reason.TIMED_OUT),
    ],
)
async def test_an_unavailable_server_is_retried(stack, status, reason):
    server = await stack.enter_async_context(answering(status))
    await fails_at_the_deadline(reason, server.address)


async def test_a_gateway_without_a_server_behind_it_is_retried(stack):
    server = await stack.enter_async_context(answering(0, http_status=503))
    await fails_at_the_deadline(Reason.UNAVAILABLE, server.address)


# What cannot


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (RPCStatusCode.UNAUTHENTICATED, Reason.UNAUTHENTICATED),
        (RPCStatusCode.PERMISSION_DENIED, Reason.PERMISSION_DENIED),
        (RPCStatusCode.UNIMPLEMENTED, Reason.OTHER),
        (RPCStatusCode.INTERNAL, Reason.OTHER),
    ],
)
async def test_a_server_that_refuses_is_not_retried(stack, status, reason):
    server = await stack.enter_async_context(answering(status))
    settings = {"api_key": SecretStr(SECRET), "tls": TlsSettings(disabled=True)}
    error = await fails_at_once(reason, server.address, **settings)
    assert server.accepted == 1
    assert isinstance(error.__cause__, RuntimeError)
    assert SECRET not in f"{error} {error.__cause__}"


async def test_a_web_server_is_not_a_temporal_server(stack):
    server = await stack.enter_async_context(web_server())
    error = await failure(server.address)
    # Now and then its answer is overtaken by a reset, and then it is asked again.
    assert error.reason is Reason.OTHER
    assert "not a Temporal server" in str(error)


@pytest.mark.parametrize("address", ["%zz:7233", "[]:7233"])
async def test_a_malformed_address_is_said_to_be_malformed(address):
    await fails_at_once(Reason.BAD_ADDRESS, address)


async def test_metadata_that_grpc_does_not_allow_is_named_without_its_value(dev_server):
    meta = {"x-token": f"{SECRET}\n"}
    error = await fails_at_once(Reason.OTHER, dev_server.address, grpc_meta=meta)
    assert "grpc_meta" in str(error)
    assert SECRET not in f"{error} {error.__cause__}"


async def test_tls_against_a_plain_server_is_tls_trouble(dev_server):
    tls = TlsSettings(disabled=False)
    error = await fails_at_once(Reason.TLS, dev_server.address, tls=tls)
    assert "tls.disabled" in str(error)


async def test_an_api_key_switches_tls_on(dev_server):
    await fails_at_once(Reason.TLS, dev_server.address, api_key=SecretStr(SECRET))


async def test_plain_text_against_a_tls_server_is_tls_trouble(dev_server, authority, stack):
    tls = server_side(authority.issue_cert("127.0.0.1"))
    server = await stack.enter_async_context(proxy_to(dev_server.address, tls=tls))
    error = await fails_at_once(Reason.TLS, server.address)
    assert "temporal.tls" in str(error)


async def test_a_certificate_of_an_unknown_authority_is_tls_trouble(dev_server, authority, stack):
    server = await tls_server(stack, dev_server, authority.issue_cert("127.0.0.1"))
    for tls in (trusting(trustme.CA()), TlsSettings(disabled=False)):
        error = await fails_at_once(Reason.TLS, server.address, tls=tls)
        assert "tls.server_ca_cert" in str(error)


async def test_a_certificate_for_another_name_is_tls_trouble(dev_server, authority, stack):
    server = await tls_server(stack, dev_server, authority.issue_cert("other.example"))
    error = await fails_at_once(Reason.TLS, server.address, tls=trusting(authority))
    assert "tls.server_name" in str(error)
    named = trusting(authority, server_name="other.example")
    connection = await open_connection(TemporalSettings(address=server.address, tls=named))
    assert await connection.service_client.check_health()
    await connection.close()


async def test_an_expired_certificate_is_tls_trouble(dev_server, authority, stack):
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    server = await tls_server(stack, dev_server, authority.issue_cert("127.0.0.1", not_after=past))
    error = await fails_at_once(Reason.TLS, server.address, tls=trusting(authority))
    assert "expired" in str(error)


async def test_a_server_without_http2_is_tls_trouble(dev_server, authority, stack):
    tls = server_side(authority.issue_cert("127.0.0.1"), alpn=False)
    server = await stack.enter_async_context(proxy_to(dev_server.address, tls=tls))
    error = await fails_at_once(Reason.TLS, server.address, tls=trusting(authority))
    assert "HTTP/2" in str(error)


async def test_a_client_certificate_is_accepted_by_a_server_that_requires_one(
    dev_server, authority, stack
):
    tls = server_side(authority.issue_cert("127.0.0.1"), clients=authority)
    server = await stack.enter_async_context(proxy_to(dev_server.address, tls=tls))
    pair = authority.issue_cert("client@example.org")
    mutual = trusting(
        authority,
        client_cert=pem(pair.cert_chain_pems[0]),
        client_key=pem(pair.private_key_pem),
    )
    connection = await open_connection(TemporalSettings(address=server.address, tls=mutual))
    assert await connection.service_client.check_health()
    await connection.close()


# Certificate files


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_misses_a_client_certificate_is_tls_trouble(
    dev_server, authority, stack, version
):
    """It may say so by an alert, or hang up without a word."""
    tls = server_side(authority.issue_cert("127.0.0.1"), clients=authority)
    tls.minimum_version = tls.maximum_version = version
    server = await stack.enter_async_context(proxy_to(dev_server.address, tls=tls))
    for _ in range(5):
        error = await fails_at_once(Reason.TLS, server.address, tls=trusting(authority))
        assert "client certificate" in str(error) or "tls.client_cert" in str(error)


async def test_the_error_names_a_client_certificate_that_the_server_does_not_trust(
    dev_server, authority, stack
):
    tls = server_side(authority.issue_cert("127.0.0.1"), clients=authority)
    server = await stack.enter_async_context(proxy_to(dev_server.address, tls=tls))
    pair = trustme.CA().issue_cert("client@example.org")
    stranger = trusting(
        authority,
        client_cert=pem(pair.cert_chain_pems[0]),
        client_key=pem(pair.private_key_pem),
    )
    error = await failure(server.address, tls=stranger, connect_deadline=DEADLINE)
    assert error.reason in {Reason.TLS, Reason.RESET}
    assert "client certificate" in str(error) or "tls.client_cert" in str(error)


async def test_a_missing_certificate_file_is_named(tmp_path):
    absent = CertificateSource(path=tmp_path / "ca.pem")
    error = await bad_certificate(TlsSettings(server_ca_cert=absent))
    assert f"tls.server_ca_cert file '{tmp_path / 'ca.pem'}' cannot be read" in str(error)
    assert isinstance(error.__cause__, FileNotFoundError)


async def test_a_certificate_file_that_cannot_be_read_is_named(tmp_path):
    error = await bad_certificate(TlsSettings(server_ca_cert=CertificateSource(path=tmp_path)))
    assert "cannot be read: Is a directory" in str(error)


DAMAGED = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "has no PEM certificate"),
        ("not a certificate", "has no PEM certificate"),
        ("\x00\x80\udcff", "has no PEM certificate"),
        (DAMAGED, "has a damaged certificate"),
    ],
)
async def test_a_file_that_holds_no_certificate_is_named(
    tmp_path: Path, authority: trustme.CA, content: str, complaint: str
):
    file = tmp_path / "cert.pem"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    source = CertificateSource(path=file)
    assert complaint in str(await bad_certificate(TlsSettings(server_ca_cert=source)))
    key = pem(authority.issue_cert("c@example.org").private_key_pem)
    error = await bad_certificate(TlsSettings(client_cert=source, client_key=key))
    assert complaint in str(error)
    assert str(file) in str(error)


async def test_a_key_that_does_not_fit_is_found_out_before_anything_is_sent(authority):
    one, other = authority.issue_cert("a@example.org"), authority.issue_cert("b@example.org")
    error = await bad_certificate(
        TlsSettings(client_cert=pem(one.cert_chain_pems[0]), client_key=pem(other.private_key_pem))
    )
    assert "does not belong to" in str(error)


LOCKED_KEY = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
DAMAGED_KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("key", ["not a key", DAMAGED, LOCKED_KEY, DAMAGED_KEY])
async def test_what_is_no_private_key_is_named_but_not_shown(authority, key):
    certificate = pem(authority.issue_cert("a@example.org").cert_chain_pems[0])
    error = await bad_certificate(TlsSettings(client_cert=certificate, client_key=pem(key)))
    assert "tls.client_key" in str(error)
    assert "without a password" in str(error)
    assert key not in str(error)


async def bad_certificate(tls: TlsSettings) -> ConnectionFailedError:
    return await fails_at_once(Reason.BAD_CERTIFICATE, f"127.0.0.1:{free_port()}", tls=tls)


async def tls_server(
    stack: AsyncExitStack, server: DevServer, certificate: trustme.LeafCert
) -> Listener:
    tls = server_side(certificate)
    return await stack.enter_async_context(proxy_to(server.address, tls=tls))


# Namespaces


async def test_a_namespace_is_verified_only_if_configured(dev_server):
    settings = TemporalSettings(address=dev_server.address, namespace="nowhere")
    connection = await open_connection(settings)
    await connection.close()


async def test_a_namespace_that_does_not_exist_is_named_and_leaves_no_socket(dev_server):
    sockets = Sockets(dev_server.address)
    error = await fails_at_once(
        Reason.NAMESPACE_NOT_FOUND,
        dev_server.address,
        namespace="nowhere",
        verify_namespace=True,
    )
    assert "namespace 'nowhere' does not exist" in str(error)
    assert await sockets.are_gone()


async def test_a_namespace_given_to_the_call_is_looked_for_instead(dev_server):
    settings = TemporalSettings(
        address=dev_server.address, namespace="nowhere", verify_namespace=True
    )
    connection = await open_connection(settings, namespace="second")
    await connection.close()


# Giving up


async def test_cancelling_an_attempt_leaves_no_socket(stack):
    server = await stack.enter_async_context(silent())
    sockets = Sockets(server.address)
    opening = asyncio.create_task(open_connection(TemporalSettings(address=server.address)))
    await until(lambda: server.accepted)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await sockets.are_gone()
