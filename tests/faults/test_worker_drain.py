"""SIGTERM at inconvenient times: the process ends, and does not wait for what will not come."""

import asyncio
import json

from temporalio.client import Client

from orkestra import OrkestraPlugin
from orkestra.testing import Behaviour, LangfuseReceiver
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import is_at_work, serving
from tests.workflows.slow import Slow


async def test_sigterm_while_langfuse_hangs_ends_in_time(dev_server, raw_client, fresh):
    queue = fresh.task_queue()
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as receiver:
        langfuse = {
            "public_key": receiver.public_key,
            "secret_key": receiver.secret_key,
            "base_url": receiver.url,
            "flush_timeout": "1s",
        }
        environment = {"SERVE_LANGFUSE": json.dumps(langfuse)}
        async with serving(
            dev_server.address, queue, environment=environment, probes_address="127.0.0.1:0"
        ) as worker:
            await worker.becomes("/readyz", 200)
            with receiver.behaving(Behaviour.HANG):
                handle = await acme.start_workflow(
                    Slow.run, args=["obeys", 0.0], id="hanging", task_queue=queue
                )
                assert await asyncio.wait_for(handle.result(), PATIENCE) == "finished"
                worker.process.terminate()
                assert await worker.end() == 0


async def test_sigterm_while_connecting_ends_the_process_at_once(fresh):
    async with serving("127.0.0.1:1", fresh.task_queue(), probes_address="127.0.0.1:0") as worker:
        await worker.says("trying again")
        worker.process.terminate()
        assert await worker.end() == 0
    assert "Traceback" not in worker.log


async def test_two_signals_while_connecting_end_it_all_the_same(fresh):
    async with serving("127.0.0.1:1", fresh.task_queue(), probes_address="127.0.0.1:0") as worker:
        await worker.says("trying again")
        worker.process.terminate()
        worker.process.terminate()
        assert await worker.end() in (0, 143)


async def test_probes_go_on_answering_until_the_last_activity_has_ended(
    dev_server, raw_client, fresh, tmp_path
):
    queue, release = fresh.task_queue(), tmp_path / "release"
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    async with serving(
        dev_server.address,
        queue,
        environment={"SLOW_UNTIL": str(release)},
        graceful_shutdown_timeout=2 * PATIENCE,
        probes_address="127.0.0.1:0",
    ) as worker:
        await worker.becomes("/readyz", 200)
        handle = await acme.start_workflow(
            Slow.run, args=["waits_for_a_file", 0.05], id="last", task_queue=queue
        )
        await until(lambda: is_at_work(handle))
        worker.process.terminate()
        await worker.becomes("/readyz", 503, "draining")
        assert (await worker.probe("/livez"))[0] == 200
        release.touch()
        assert await worker.end() == 0
