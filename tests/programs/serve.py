"""A worker as a user would run it: `serve.py ADDRESS QUEUE NAMESPACE`; it says when ready."""

import asyncio
import logging
import sys
from datetime import timedelta

from orkestra import OrkestraConfig, TemporalSettings, WorkerSettings, create_worker, run_worker


async def main(address: str, queue: str, namespace: str) -> int:
    logging.basicConfig(level=logging.INFO)
    config = OrkestraConfig(
        temporal=TemporalSettings(address=address, namespace=namespace),
        worker=WorkerSettings(
            graceful_shutdown_timeout=timedelta(seconds=2),
            cancellation_timeout=timedelta(seconds=1),
        ),
    )
    worker = await create_worker(config, task_queue=queue, workflows_path="tests.workflows.slow")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    return await run_worker(worker)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:4])))
