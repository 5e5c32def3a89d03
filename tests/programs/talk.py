"""`talk.py ADDRESS QUEUE STYLE`: runs one workflow that logs, replayed on every task."""

import asyncio
import sys
from typing import Any

from orkestra import (
    LangfuseSettings,
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    WorkerSettings,
    configure_logging,
    create_worker,
    start_workflow,
)
from tests.workflows.logging_everywhere import Talkative

SECRET = "sk-secret-of-langfuse"


async def main(address: str, queue: str, style: Any) -> None:
    config = OrkestraConfig(
        temporal=TemporalSettings(address=address),
        worker=WorkerSettings(max_cached_workflows=0),
        langfuse=LangfuseSettings(enabled=False, public_key="pk", secret_key=SECRET),
    )
    configure_logging(style=style, config=config)
    async with TemporalConnectionManager(config) as manager:
        worker = await create_worker(
            task_queue=queue, workflows_path="tests.workflows.logging_everywhere", manager=manager
        )
        client = await manager.get_client(tenant="acme")
        async with worker:
            handle = await start_workflow(
                client, Talkative.run, f"{SECRET}\r\n\x1b", task_queue=queue, workflow_id=queue
            )
            await handle.signal(Talkative.tell)
            await handle.result()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
