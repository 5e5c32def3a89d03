"""What `/readyz` says while the server answers, but gives a worker no work."""

import uuid
from datetime import timedelta

from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client

from orkestra import ensure_search_attributes
from orkestra.devserver import DevServer
from tests.support.worker_process import serving

SOMEWHERE = "127.0.0.1:0"


async def test_a_namespace_that_is_deleted_under_a_running_worker_is_noticed(dev_server, fresh):
    name = f"doomed-{uuid.uuid4().hex[:8]}"
    client = await Client.connect(dev_server.address, namespace=name)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=name, workflow_execution_retention_period=timedelta(days=1)
        )
    )
    await ensure_search_attributes(client, timeout=timedelta(seconds=45))
    async with serving(
        dev_server.address, fresh.task_queue(), name, probes_address=SOMEWHERE
    ) as worker:
        await worker.becomes("/readyz", 200)
        await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=name))
        told = await worker.becomes("/readyz", 503, "does not exist any more")
        assert name in told["reason"]
        assert f"Worker for task queue {fresh.task_queue()!r} takes no work" in worker.log
        worker.process.terminate()
        assert await worker.end() == 0


async def test_polls_that_are_refused_are_noticed_although_the_server_answers(tmp_path, fresh):
    refusing = DevServer(dynamic_config={"frontend.namespaceCount": 1})
    async with (
        refusing,
        serving(refusing.address, fresh.task_queue(), probes_address=SOMEWHERE) as worker,
    ):
        told = await worker.becomes("/readyz", 503, "keeps failing")
        assert "TaskQueue" in told["reason"]
        _, metrics = await worker.probe("/metrics")
        assert (
            f'orkestra_worker_ready{{namespace="default",task_queue="{fresh.task_queue()}"}} 0'
            in metrics
        )
        up = f'orkestra_connection_up{{address="{refusing.address}",namespace="default"}} 1'
        assert up in metrics
