"""The configuration: where it comes from, what wins, and what is refused."""

from datetime import timedelta

import pytest

from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _empty_surroundings(tmp_path, monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(("TEMPORAL_", "LANGFUSE_", "ORKESTRA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    monkeypatch.chdir(tmp_path)


def test_without_any_source_the_defaults_apply():
    assert OrkestraConfig.load() == OrkestraConfig()
    assert OrkestraConfig().temporal.address == "localhost:7233"
    assert not OrkestraConfig().langfuse.is_on


def test_later_sources_win_over_earlier_ones(tmp_path, monkeypatch):
    (tmp_path / "temporal.toml").write_text(
        '[profile.default]\naddress = "profile:1"\nnamespace = "profile"\napi_key = "k"\n'
    )
    (tmp_path / "orkestra.toml").write_text(
        '[temporal]\naddress = "file:2"\n[worker]\nmax_cached_workflows = 7\n'
        'graceful_shutdown_timeout = "5s"\n'
    )
    assert OrkestraConfig.load().temporal.address == "file:2"
    monkeypatch.setenv("TEMPORAL_ADDRESS", "environment:3")
    monkeypatch.setenv("ORKESTRA_WORKER__GRACEFUL_SHUTDOWN_TIMEOUT", "250ms")
    config = OrkestraConfig.load()
    assert config.temporal.address == "environment:3"
    assert config.temporal.namespace == "profile"
    assert config.temporal.api_key is not None
    assert config.worker.max_cached_workflows == 7
    assert config.worker.graceful_shutdown_timeout == timedelta(milliseconds=250)


def test_a_profile_and_its_certificates_are_read_as_the_temporal_command_reads_them(
    tmp_path, monkeypatch
):
    (tmp_path / "temporal.toml").write_text(
        '[profile.prod]\naddress = "prod:7233"\n[profile.prod.tls]\nserver_name = "prod.example"\n'
        'client_cert_path = "/c.pem"\nclient_key_path = "/k.pem"\n'
    )
    monkeypatch.setenv("TEMPORAL_PROFILE", "prod")
    temporal = OrkestraConfig.load().temporal
    assert temporal.address == "prod:7233"
    assert temporal.tls is not None
    assert temporal.tls.server_name == "prod.example"
    assert temporal.tls.client_cert is not None
    assert str(temporal.tls.client_cert.path) == "/c.pem"


def test_langfuse_is_configured_by_the_variables_that_its_own_sdk_reads(monkeypatch):
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk")
    monkeypatch.setenv("LANGFUSE_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("LANGFUSE_TRACING_ENVIRONMENT", "staging")
    monkeypatch.setenv("LANGFUSE_SAMPLE_RATE", "0.5")
    langfuse = OrkestraConfig.load().langfuse
    assert (langfuse.base_url, langfuse.environment) == ("http://127.0.0.1:1", "staging")
    assert langfuse.sample_rate == 0.5
    assert langfuse.is_on
    monkeypatch.setenv("LANGFUSE_TRACING_ENABLED", "False")
    assert not OrkestraConfig.load().langfuse.is_on


def test_tracing_switched_on_without_keys_is_refused():
    with pytest.raises(ValueError, match="public_key and secret_key"):
        LangfuseSettings(enabled=True)


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ('[temporal]\naddres = "x:1"', r"temporal\.addres = 'x:1' from orkestra.toml: unknown key"),
        ('[temporal]\naddress = "x"', r"temporal\.address = 'x' from orkestra.toml: must be host"),
        ('[temporal]\naddress = "x:0"', "must be host:port"),
        ('[temporal]\naddress = "http://x:1"', "must be host:port"),
        ('[temporal]\naddress = "::1:7233"', "must be host:port"),
        ('[temporal]\naddress = "[::1:7233"', "must be host:port"),
        ('[temporal]\nnamespace = ""', "temporal.namespace"),
        ("[nope]\na = 1", "nope from orkestra.toml: unknown key"),
        ('[tenancy]\nmode = "sometimes"', "tenancy.mode = 'sometimes'.*'required'"),
        ('[langfuse]\nenvironment = "langfuse-x"', "langfuse.environment"),
        ("[langfuse]\nsample_rate = 2", "langfuse.sample_rate = 2"),
        ('[worker]\ngraceful_shutdown_timeout = "soon"', "graceful_shutdown_timeout = 'soon'"),
        ("[worker]\nmax_concurrent_activities = 0", "max_concurrent_activities = 0"),
        (
            '[temporal.tls]\nclient_cert = { path = "c" }',
            "client_cert and client_key need each other",
        ),
        ("not toml at all", "orkestra.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_key_value_and_origin(tmp_path, toml, complaint):
    (tmp_path / "orkestra.toml").write_text(toml)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        OrkestraConfig.load()
    assert "\n" not in str(caught.value).replace("not toml at all", "")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("TEMPORAL_ADDRESS", "nowhere", r"'nowhere' from environment \(TEMPORAL_\*\)"),
        ("TEMPORAL_PROFILE", "nope", "Profile 'nope' not found"),
        ("ORKESTRA_WORKER__GRACEFUL", "5s", r"worker.graceful.*ORKESTRA_\*.*unknown key"),
        ("LANGFUSE_SAMPLE_RATE", "lots", r"'lots' from environment \(LANGFUSE_\*\)"),
    ],
)
def test_a_wrong_variable_is_refused_with_key_value_and_origin(monkeypatch, name, value, complaint):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=complaint):
        OrkestraConfig.load()


def test_a_named_file_that_is_missing_is_refused():
    with pytest.raises(ConfigurationError, match=r"'nowhere.toml' does not exist"):
        OrkestraConfig.load("nowhere.toml")


def test_secrets_show_neither_in_reprs_nor_in_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPORAL_API_KEY", "canary-1")
    monkeypatch.setenv("TEMPORAL_GRPC_META_AUTHORIZATION", "canary-2")
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "canary-3")
    config = OrkestraConfig.load()
    assert config.temporal.api_key is not None
    assert config.temporal.api_key.get_secret_value() == "canary-1"
    assert config.temporal.grpc_meta == {"authorization": "canary-2"}
    assert "canary" not in repr(config)
    assert "canary" not in str(config)
    (tmp_path / "orkestra.toml").write_text('[langfuse]\nsecret_key = ["canary-4"]\n')
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    with pytest.raises(ConfigurationError) as caught:
        OrkestraConfig.load()
    assert "canary" not in str(caught.value)


def test_settings_cannot_be_changed():
    config = OrkestraConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.temporal.address = "x:1"
