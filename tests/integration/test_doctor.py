"""Findings of the doctor, from DNS to Langfuse."""

import json
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from temporalio.client import Client

from orkestra.config import (
    CertificateSource,
    OrkestraConfig,
    TemporalSettings,
    TenancySettings,
    TenantSettings,
    TlsSettings,
)
from orkestra.devserver import DevServer
from orkestra.doctor import Diagnosis, Finding, diagnose
from orkestra.doctor.checks import check_clocks, check_fairness
from orkestra.testing import LangfuseReceiver
from tests.support.command import Command
from tests.support.listeners import proxy_to
from tests.support.names import Fresh
from tests.support.waiting import PATIENTLY, until


def at(address: str, **others: object) -> OrkestraConfig:
    temporal = TemporalSettings.model_validate({"address": address, **others})
    return OrkestraConfig(temporal=temporal)


def named(diagnosis: Diagnosis, name: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.name == name]
    assert len(found) == 1, diagnosis.findings
    return found[0]


async def test_without_problems_every_check_passes(dev_server: DevServer):
    diagnosis = await diagnose(at(dev_server.address), timeout=PATIENTLY)
    assert diagnosis
    assert [finding.name for finding in diagnosis.findings] == [
        "dns",
        "tcp",
        "connection",
        "server",
        "namespace",
        "search_attribute",
        "clock",
        "fairness",
        "ownership",
        "langfuse",
    ]
    assert named(diagnosis, "clock").ok
    assert named(diagnosis, "fairness").ok is None
    assert named(diagnosis, "langfuse").detail == "tracing is off: no keys"


async def test_a_host_without_an_address_fails_the_dns_check():
    diagnosis = await diagnose(at("nowhere.invalid:7233"), timeout=PATIENTLY)
    assert [finding.name for finding in diagnosis.findings] == ["dns", "langfuse"]
    assert "nowhere.invalid" in named(diagnosis, "dns").detail
    assert named(diagnosis, "dns").ok is False


async def test_a_port_without_a_listener_fails_the_tcp_check():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    diagnosis = await diagnose(at(f"127.0.0.1:{port}"), timeout=PATIENTLY)
    problem = named(diagnosis, "tcp")
    assert problem.ok is False
    assert "start the server" in problem.fix


def server_side(authority: trustme.CA, name: str = "127.0.0.1", **options: datetime):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, **options).configure_cert(context)
    context.set_alpn_protocols(["h2"])
    return context


def trusting(authority: trustme.CA) -> TlsSettings:
    text = authority.cert_pem.bytes().decode()
    return TlsSettings(server_ca_cert=CertificateSource.model_validate({"data": text}))


async def test_a_good_certificate_passes_and_its_expiry_is_shown(dev_server: DevServer):
    authority = trustme.CA()
    ends = datetime.now(UTC) + timedelta(days=100, hours=1)
    context = server_side(authority, not_after=ends)
    async with proxy_to(dev_server.address, tls=context) as proxy:
        diagnosis = await diagnose(at(proxy.address, tls=trusting(authority)), timeout=PATIENTLY)
    assert diagnosis
    assert "expires in 100 days" in named(diagnosis, "tls").detail


async def test_a_certificate_that_expires_soon_passes_with_advice(dev_server: DevServer):
    authority = trustme.CA()
    context = server_side(authority, not_after=datetime.now(UTC) + timedelta(days=3, hours=1))
    async with proxy_to(dev_server.address, tls=context) as proxy:
        diagnosis = await diagnose(at(proxy.address, tls=trusting(authority)), timeout=PATIENTLY)
    assert named(diagnosis, "tls").ok
    assert "renew" in named(diagnosis, "tls").fix


@pytest.mark.parametrize(
    ("name", "ends_in", "trusts", "why"),
    [
        ("other.example", 10, True, "IP address mismatch"),
        ("127.0.0.1", -1, True, "expired"),
        ("127.0.0.1", 10, False, "unable to get local issuer"),
    ],
)
async def test_a_bad_certificate_fails_with_its_reason(
    dev_server: DevServer, name: str, ends_in: int, trusts: bool, why: str
):
    authority = trustme.CA()
    ends = datetime.now(UTC) + timedelta(days=ends_in)
    begins = datetime.now(UTC) - timedelta(days=20)
    context = server_side(authority, name, not_before=begins, not_after=ends)
    trusted = trusting(authority if trusts else trustme.CA())
    async with proxy_to(dev_server.address, tls=context) as proxy:
        diagnosis = await diagnose(at(proxy.address, tls=trusted), timeout=PATIENTLY)
    assert named(diagnosis, "tls").ok is False
    assert why in named(diagnosis, "tls").detail
    assert [finding.name for finding in diagnosis.findings][-2:] == ["tls", "langfuse"]


async def test_tls_against_a_plain_server_fails_the_tls_check(dev_server: DevServer):
    tls = TlsSettings(disabled=False)
    diagnosis = await diagnose(at(dev_server.address, tls=tls), timeout=PATIENTLY)
    assert "speaks TLS" in named(diagnosis, "tls").fix


async def test_a_missing_namespace_is_a_problem_with_a_fix(dev_server: DevServer):
    diagnosis = await diagnose(at(dev_server.address, namespace="nope"), timeout=PATIENTLY)
    problem = named(diagnosis, "namespace")
    assert problem.ok is False
    assert "'nope' does not exist" in problem.detail
    assert "temporal operator namespace create" in problem.fix


async def test_queues_and_namespaces_of_single_tenants_are_checked(
    dev_server: DevServer, fresh: Fresh
):
    queue = fresh.task_queue()
    config = OrkestraConfig(
        temporal=TemporalSettings(address=dev_server.address),
        tenants={"acme": TenantSettings(namespace="second", task_queues={"orders": queue})},
    )
    diagnosis = await diagnose(config, timeout=PATIENTLY)
    namespaces = [f.detail for f in diagnosis.findings if f.name == "namespace"]
    assert namespaces == ["'default' is registered", "in 'second': 'second' is registered"]
    assert queue in named(diagnosis, "workflow_pollers").detail
    assert {problem.name for problem in diagnosis.problems} == {
        "workflow_pollers",
        "activity_pollers",
    }


async def test_an_id_with_a_tenants_prefix_that_is_not_the_tenants_is_a_problem(
    dev_server: DevServer, raw_client: Client, fresh: Fresh
):
    tenant = fresh.tenant()
    config = OrkestraConfig(
        temporal=TemporalSettings(address=dev_server.address, namespace="second"),
        tenants={tenant: TenantSettings()},
    )
    client = Client(raw_client.service_client, namespace="second")
    started = await client.start_workflow(
        "Nothing", id=f"{tenant}:order", task_queue=fresh.task_queue()
    )
    try:

        async def is_listed() -> bool:
            return (await client.count_workflows(f"WorkflowId = '{started.id}'")).count > 0

        await until(is_listed)
        problem = named(await diagnose(config, timeout=PATIENTLY), "ownership")
    finally:
        await started.terminate()
    assert problem.ok is False
    assert repr(f"{tenant}:order") in problem.detail


async def test_the_clock_is_compared_with_the_time_that_the_server_noted(raw_client: Client):
    finding = await check_clocks(raw_client, timeout=PATIENTLY)
    assert finding.ok, finding
    assert finding.detail.startswith("within ")


async def test_a_clock_that_is_wrong_is_a_problem(
    raw_client: Client, monkeypatch: pytest.MonkeyPatch
):
    right = time.time
    monkeypatch.setattr("orkestra.doctor.checks.time.time", lambda: right() + 60)
    finding = await check_clocks(raw_client, timeout=PATIENTLY)
    assert finding.ok is False
    assert "ahead of the server's" in finding.detail


async def test_fairness_passes_if_it_is_on(raw_client: Client):
    finding = await check_fairness(raw_client, timeout=PATIENTLY)
    assert finding.ok, finding


async def test_fairness_fails_if_it_is_off():
    async with DevServer(fairness=False) as server:
        client = await Client.connect(server.address)
        finding = await check_fairness(client, timeout=PATIENTLY)
    assert finding.ok is False
    assert "matching.enableFairness" in finding.fix


async def test_the_langfuse_project_that_accepts_traces_is_named(dev_server: DevServer):
    with LangfuseReceiver() as receiver:
        config = at(dev_server.address).model_copy(update={"langfuse": receiver.settings()})
        finding = named(await diagnose(config, timeout=PATIENTLY), "langfuse")
    assert finding.ok
    assert finding.detail == f"'{receiver.url}' accepts traces for project 'received'"


async def test_wrong_keys_and_an_unreachable_langfuse_are_distinguished(dev_server: DevServer):
    with LangfuseReceiver() as receiver:
        wrong = receiver.settings(secret_key="sk-wrong")
        config = at(dev_server.address).model_copy(update={"langfuse": wrong})
        refused = named(await diagnose(config, timeout=PATIENTLY), "langfuse")
    down = named(await diagnose(config, timeout=PATIENTLY), "langfuse")
    assert refused.ok is down.ok is False
    assert "rejects the keys" in refused.detail
    assert "sk-wrong" not in refused.detail
    assert "ConnectError" in down.detail


async def test_the_projects_of_tenants_are_checked_with_their_own_keys(dev_server: DevServer):
    with LangfuseReceiver(public_key="pk-lf-acme", secret_key="sk-lf-acme") as receiver:
        keys = {"public_key": "pk-lf-acme", "secret_key": "sk-lf-acme", "base_url": receiver.url}
        config = OrkestraConfig(
            temporal=TemporalSettings(address=dev_server.address),
            tenants={
                "acme": TenantSettings.model_validate({"langfuse": keys}),
                "globex": TenantSettings.model_validate(
                    {"langfuse": {**keys, "secret_key": "sk-lf-wrong"}}
                ),
            },
        )
        diagnosis = await diagnose(config, timeout=PATIENTLY)
    well, ill = (finding for finding in diagnosis.findings if finding.name == "langfuse")
    assert well.ok
    assert well.detail.startswith("of tenant 'acme': ")
    assert ill.ok is False
    assert ill.fix.startswith("check that tenants.globex.langfuse.public_key")
    assert "sk-lf-wrong" not in ill.detail


async def test_without_tenancy_its_checks_are_skipped(dev_server: DevServer):
    config = at(dev_server.address).model_copy(update={"tenancy": TenancySettings(mode="off")})
    names = {finding.name for finding in (await diagnose(config, timeout=PATIENTLY)).findings}
    assert not names & {"search_attribute", "fairness", "ownership"}


def test_the_command_prints_a_line_for_each_check_and_fails_on_problems(
    dev_server: DevServer, tmp_path: Path
):
    command, there = Command(tmp_path), {"TEMPORAL_ADDRESS": dev_server.address}
    well = command.run("doctor", "--timeout", "60s", **there)
    assert well.returncode == 0, well.stderr
    assert well.stdout.splitlines()[-1] == "no problems found"
    ill = command.run("doctor", "--timeout", "60s", "--task-queue", "nobody", "--json", **there)
    assert ill.returncode == 1
    told = json.loads(ill.stdout)
    assert not told["healthy"]
    assert [f["name"] for f in told["findings"] if f["ok"] is False] == [
        "workflow_pollers",
        "activity_pollers",
    ]


def test_an_invalid_configuration_is_a_finding(tmp_path: Path):
    done = Command(tmp_path).run("doctor", ORKESTRA_TENANCY__MODE="maybe")
    assert done.returncode == 1
    assert done.stdout.startswith("fail configuration")
    assert "tenancy.mode = 'maybe'" in done.stdout
