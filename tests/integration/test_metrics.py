"""What `/metrics` shows: the core's figures and ours, with labels that nobody outside chooses."""

import asyncio
import json
import re

import pytest
from temporalio.api.workflowservice.v1 import ListBatchOperationsRequest
from temporalio.client import Client, WorkflowFailureError

from orkestra import (
    ForbiddenOperationError,
    OrkestraConfig,
    OrkestraPlugin,
    TemporalConnectionManager,
    TemporalSettings,
    TenancySettings,
    TenantRequiredError,
    TenantSettings,
)
from orkestra.temporal.manager import metered_runtime
from orkestra.testing import LangfuseReceiver
from tests.support.waiting import becomes, until
from tests.support.worker_process import Serving, serving
from tests.workflows.slow import Slow

SAMPLE = re.compile(r"[a-zA-Z_:][\w:]*(\{.*\})? [-+\d.eE]+|[a-zA-Z_:][\w:]*(\{.*\})? (NaN|[+-]Inf)")


async def metrics(worker: Serving) -> str:
    status, text = await worker.probe("/metrics")
    assert status == 200
    return str(text)


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of a metric that have the labels."""
    found = 0.0
    for line in text.splitlines():
        if re.match(rf"{name}[{{ ]", line) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            found += float(line.rpartition(" ")[2])
    return found


async def test_the_cores_metrics_and_ours_are_one_well_formed_text(dev_server, raw_client, fresh):
    queue, tenant = fresh.task_queue(), fresh.tenant()
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=tenant)])
    async with serving(dev_server.address, queue, probes_address="127.0.0.1:0") as worker:
        await worker.becomes("/readyz", 200)
        handle = await acme.start_workflow(
            Slow.run, args=["obeys", 0.0], id="metered", task_queue=queue
        )
        assert await handle.result() == "finished"
        place = {"namespace": "default", "task_queue": queue}

        async def completed() -> float:
            return value(await metrics(worker), "temporal_workflow_completed", **place)

        # The core counts it once the server has answered, when the client has long had the result.
        await until(completed)
        text = await metrics(worker)
        assert value(text, "temporal_workflow_completed", **place) == 1
        assert value(text, "orkestra_worker_ready", **place) == 1
        assert value(text, "orkestra_worker_restarts_total", **place) == 0
        assert value(text, "orkestra_connection_up", namespace="default") == 1
        assert value(text, "orkestra_connections", state="open") == 1
        assert value(text, "orkestra_connection_attempts_total") == 1
        assert value(text, "orkestra_connection_attempts_failed_total") == 0
        assert value(text, "orkestra_calls_total") > 2
        assert re.search(r"^orkestra_calls_waiting \d", text, re.MULTILINE)
        assert re.search(r"^orkestra_rotations_total 0$", text, re.MULTILINE)
        assert "# TYPE orkestra_spans_lost_total counter" in text
        samples = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert all(SAMPLE.fullmatch(line) for line in samples)
        families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(families) == len(set(families))
        assert tenant not in text


async def test_refusals_are_counted_by_their_kind_and_never_by_tenant(
    dev_server, raw_client, fresh
):
    queue = fresh.task_queue()
    async with serving(dev_server.address, queue, probes_address="127.0.0.1:0") as worker:
        await worker.becomes("/readyz", 200)
        for number in range(20):
            # Started without Orkestra, as a stranger would, under a name of its own each time.
            handle = await raw_client.start_workflow(
                "Slow", args=["obeys", 0.0], id=f"stranger{number}-{queue}:x", task_queue=queue
            )
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        text = await metrics(worker)
        lines = [line for line in text.splitlines() if line.startswith("orkestra_refused")]
        assert "stranger" not in text
        assert value(text, "orkestra_refused_workflows", kind="TenantRequired") == 20
        assert len(lines) == 1


async def test_dropped_signals_are_counted(dev_server, raw_client, fresh):
    queue = fresh.task_queue()
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    async with serving(
        dev_server.address,
        queue,
        module="tests.workflows.logging_everywhere",
        probes_address="127.0.0.1:0",
    ) as worker:
        await worker.becomes("/readyz", 200)
        handle = await acme.start_workflow("Talkative", "text", id="told", task_queue=queue)
        raw = raw_client.get_workflow_handle(handle.id)
        await raw.signal("tell")

        async def dropped() -> float:
            return value(await metrics(worker), "orkestra_dropped_signals", task_queue=queue)

        assert await until(dropped) == 1
        await handle.terminate()


async def test_spans_are_counted_from_the_workflow_to_langfuse(dev_server, raw_client, fresh):
    queue = fresh.task_queue()
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as receiver:
        langfuse = {
            "public_key": receiver.public_key,
            "secret_key": receiver.secret_key,
            "base_url": receiver.url,
        }
        environment = {"SERVE_LANGFUSE": json.dumps(langfuse)}
        async with serving(
            dev_server.address, queue, environment=environment, probes_address="127.0.0.1:0"
        ) as worker:
            await worker.becomes("/readyz", 200)
            handle = await acme.start_workflow(
                Slow.run, args=["obeys", 0.0], id="counted", task_queue=queue
            )
            assert await handle.result() == "finished"
            names = ("sent_total", "held", "waiting", "lost_total")

            async def counted() -> list[float]:
                text = await metrics(worker)
                return [value(text, f"orkestra_spans_{name}") for name in names]

            await becomes(counted, [2, 0, 0, 0])


async def test_the_tenant_label_is_opt_in_and_only_for_known_tenants(dev_server, raw_client, fresh):
    queue, known, stranger = fresh.task_queue(), fresh.tenant(), fresh.tenant("stranger")
    environment = {"SERVE_TENANTS": json.dumps({known: {"status": "suspended"}})}
    async with serving(
        dev_server.address, queue, environment=environment, probes_address="127.0.0.1:0"
    ) as worker:
        await worker.becomes("/readyz", 200)
        for tenant in (known, stranger):
            client = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=tenant)])
            handle = await client.start_workflow(
                Slow.run, args=["obeys", 0.0], id="refused", task_queue=queue
            )
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        text = await metrics(worker)
        refused = "orkestra_refused_workflows"
        assert value(text, refused, kind="TenantSuspended", tenant=known) == 1
        assert value(text, refused, kind="TenantUnknown", tenant="unknown") == 1
        assert stranger not in text


async def test_calls_that_clients_are_refused_are_counted_by_name_and_kind(dev_server, fresh):
    tenant = fresh.tenant()
    config = OrkestraConfig(
        temporal=TemporalSettings(address=dev_server.address),
        tenancy=TenancySettings(metrics_tenant_label=True),
        tenants={tenant: TenantSettings()},
    )
    runtime = metered_runtime()
    async with TemporalConnectionManager(config, runtime=runtime) as manager:
        acme, nobody = await manager.get_client(tenant=tenant), await manager.get_client()
        for _ in range(2):
            with pytest.raises(ForbiddenOperationError):
                await acme.workflow_service.list_batch_operations(ListBatchOperationsRequest())
        with pytest.raises(TenantRequiredError):
            await nobody.start_workflow("Any", id=fresh.suffix, task_queue=fresh.task_queue())
        text = await asyncio.to_thread(runtime.metrics_text)
    forbidden = {"call": "list_batch_operations", "kind": "ForbiddenOperationError"}
    required = {"call": "start_workflow", "kind": "TenantRequiredError"}
    assert value(text, "orkestra_refused_calls", tenant=tenant, **forbidden) == 2
    assert value(text, "orkestra_refused_calls", tenant="unknown", **required) == 1
