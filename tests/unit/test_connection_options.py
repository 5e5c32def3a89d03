"""From the settings to what the SDK is told."""

import asyncio
from datetime import timedelta

import pytest
import trustme
from pydantic import SecretStr
from temporalio.service import RetryConfig, TLSConfig

from orkestra.config import CertificateSource, TemporalSettings, TlsSettings
from orkestra.temporal.connection.config import connect_config, uses_tls

KEY = SecretStr("s3cret")
NAME = TlsSettings(server_name="temporal.example")
OFF = TlsSettings(disabled=True, server_name="temporal.example")


def config_of(**settings):
    return asyncio.run(connect_config(TemporalSettings(**settings), None))


def test_the_defaults_are_the_sdks_own_apart_from_the_time_outs():
    config = config_of()
    assert config.target_host == "localhost:7233"
    assert config.retry_config == RetryConfig(max_retries=0)
    assert config.connect_timeout == timedelta(seconds=10)
    assert config.keep_alive_config is not None
    assert not config.lazy
    assert "@" in config.identity


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"tls": TlsSettings()}, False),
        ({"api_key": KEY}, True),
        ({"api_key": KEY, "tls": TlsSettings()}, True),
        ({"api_key": KEY, "tls": OFF}, False),
        ({"tls": OFF}, False),
        ({"tls": NAME}, True),
        ({"tls": TlsSettings(disabled=False)}, True),
    ],
)
def test_tls_is_on_if_a_setting_needs_it_and_none_disables_it(settings, expected):
    config = config_of(**settings)
    assert uses_tls(config) is expected
    assert config._to_bridge_config().target_url.startswith("https" if expected else "http:")


def test_certificates_are_handed_over_as_they_stand_in_the_files(tmp_path):
    authority = trustme.CA()
    pair = authority.issue_cert("client@example.org")
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(pair.private_key_pem.bytes())
    # Bundles have comments in any encoding.
    bundle = (
        "# Autorité\n"
        + authority.cert_pem.bytes().decode()
        + pair.cert_chain_pems[0].bytes().decode()
    )
    config = config_of(
        tls=TlsSettings(
            server_name="temporal.example",
            server_ca_cert=CertificateSource(data=SecretStr(bundle)),
            client_cert=CertificateSource(data=SecretStr(pair.cert_chain_pems[0].bytes().decode())),
            client_key=CertificateSource(path=key_file),
        )
    )
    assert config.tls == TLSConfig(
        server_root_ca_cert=bundle.encode(),
        domain="temporal.example",
        client_cert=pair.cert_chain_pems[0].bytes(),
        client_private_key=pair.private_key_pem.bytes(),
    )


def test_the_printed_configuration_has_no_secret():
    config = config_of(api_key=KEY, grpc_meta={"authorization": "t0ken"})
    assert config.api_key == "s3cret"
    assert config.rpc_metadata == {"authorization": "t0ken"}
    assert "s3cret" not in repr(config)
    assert "t0ken" not in repr(config)
