"""What `/metrics` shows: the core's figures and ours, with labels that nobody outside chooses."""

import asyncio
import re

import pytest
from temporalio.client import Client, WorkflowFailureError

from orkestra import OrkestraPlugin
from tests.serving import Serving, serving
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
        text = await metrics(worker)
        place = {"namespace": "default", "task_queue": queue}
        assert value(text, "temporal_workflow_completed", **place) == 1
        assert value(text, "orkestra_worker_ready", **place) == 1
        assert value(text, "orkestra_worker_restarts_total", **place) == 0
        assert value(text, "orkestra_connection_up", namespace="default") == 1
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
        module="tests.workflows.talkative",
        probes_address="127.0.0.1:0",
    ) as worker:
        await worker.becomes("/readyz", 200)
        handle = await acme.start_workflow("Talkative", "text", id="told", task_queue=queue)
        raw = raw_client.get_workflow_handle(handle.id)
        await raw.signal("tell")
        seen = [""]

        async def look() -> bool:
            seen[0] = await metrics(worker)
            return value(seen[0], "orkestra_dropped_signals", task_queue=queue) >= 1

        for _ in range(100):
            if await look():
                break
            await asyncio.sleep(0.1)
        assert value(seen[0], "orkestra_dropped_signals", task_queue=queue) == 1
        await handle.terminate()
