"""An application with a Langfuse client of its own: `own_langfuse.py ADDRESS QUEUE`.

The client is made first, with the keys of the environment, and takes the process's OpenTelemetry.
"""

import asyncio
import sys

from langfuse import get_client

from orkestra import (
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    create_worker,
    start_workflow,
)
from tests.workflows.observed import Observe


async def main(address: str, queue: str) -> None:
    langfuse = get_client()
    loaded = OrkestraConfig.load()
    config = loaded.model_copy(update={"temporal": TemporalSettings(address=address)})
    async with TemporalConnectionManager(config) as manager:
        worker = await create_worker(
            task_queue=queue, workflows_path="tests.workflows.observed", manager=manager
        )
        client = await manager.get_client(tenant="acme")
        with langfuse.start_as_current_observation(name="request"):
            async with worker:
                handle = await start_workflow(
                    client, Observe.run, ["observing"], "why?", task_queue=queue
                )
                await handle.result()
    langfuse.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
