"""What `/livez` and `/readyz` say at every stage of a worker's life."""

import asyncio

import pytest
from temporalio.client import Client

from orkestra import (
    ConfigurationError,
    OrkestraConfig,
    OrkestraPlugin,
    TemporalSettings,
    WorkerSettings,
    create_worker,
    run_worker,
)
from orkestra.devserver import DevServer
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import HURRIED, is_at_work, serving
from tests.workflows.slow import Slow

SOMEWHERE = "127.0.0.1:0"


async def test_probes_tell_every_stage_from_connecting_to_the_end(tmp_path, fresh):
    server = DevServer(db_filename=tmp_path / "temporal.db")
    await server.start()
    await server.stop()
    queue = fresh.task_queue()
    async with serving(
        server.address,
        queue,
        environment=HURRIED,
        probes_address=SOMEWHERE,
        graceful_shutdown_timeout=4,
    ) as worker:
        starting = await worker.becomes("/readyz", 503)
        assert starting == {
            "ready": False,
            "stage": "starting",
            "reason": "connecting",
            "workers": [],
        }
        assert await worker.probe("/livez") == (200, {"alive": True, "stage": "starting"})
        try:
            await server.start()
            ready = await worker.becomes("/readyz", 200)
            assert ready["stage"] == "running"
            [told] = ready["workers"]
            assert told == {
                "task_queue": queue,
                "namespace": "default",
                "ready": True,
                "problem": None,
                "restarts": 0,
            }
            await server.kill()
            down = await worker.becomes("/readyz", 503, "does not answer")
            assert queue in down["reason"]
            assert (await worker.probe("/livez"))[0] == 200
            await server.start()
            await worker.becomes("/readyz", 200)
            await worker.says("takes work again")
            assert worker.log.count("takes no work") == 1
            assert worker.log.count("takes work again") == 1
            tenant = fresh.tenant()
            client = await Client.connect(server.address, plugins=[OrkestraPlugin(tenant=tenant)])
            handle = await client.start_workflow(
                Slow.run, args=["ignores_cancellation", 2 * PATIENCE], id="slow", task_queue=queue
            )
            await until(lambda: is_at_work(handle))
            # Asked for all the time, because it drains for seconds only.
            becoming = asyncio.create_task(worker.becomes("/readyz", 503, "draining"))
            await asyncio.sleep(0)
            worker.process.terminate()
            draining = await becoming
            assert "SIGTERM" in draining["reason"]
            assert (await worker.probe("/livez"))[0] == 200
            assert await worker.end() == 124
            with pytest.raises(ConnectionRefusedError):
                await worker.probe("/livez")
        finally:
            await server.stop()


async def test_a_blocked_event_loop_fails_the_liveness_probe_alone_until_it_goes_on(
    dev_server, raw_client, fresh
):
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    queue = fresh.task_queue()
    async with serving(
        dev_server.address, queue, probes_address=SOMEWHERE, liveness_timeout=1.5
    ) as worker:
        await worker.becomes("/readyz", 200)
        await acme.start_workflow(Slow.run, args=["blocks", 6.0], id="slow", task_queue=queue)
        stuck = await worker.becomes("/livez", 503)
        assert "the event loop has not run for" in stuck["reason"]
        assert (await worker.becomes("/livez", 200))["alive"]
        worker.process.terminate()
        assert await worker.end() == 0


async def test_an_address_in_use_is_refused_before_anything_is_opened(dev_server, fresh):
    taken = dev_server.address
    config = OrkestraConfig(
        temporal=TemporalSettings(address="127.0.0.1:1"),
        worker=WorkerSettings(probes_address=taken),
    )
    making = create_worker(config, task_queue="q", workflows=[Slow])
    with pytest.raises(ConfigurationError, match=f"worker.probes_address '{taken}'"):
        await run_worker(making, config=config)
