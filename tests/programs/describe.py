"""A script that ends right after its last call: `describe.py ADDRESS`."""

import asyncio
import contextlib
import sys

from temporalio.client import Client
from temporalio.service import RPCError

from orkestra import OrkestraPlugin


async def main(address: str) -> None:
    client = await Client.connect(address, plugins=[OrkestraPlugin(tenant="acme")])
    handle = client.get_workflow_handle("nowhere")
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(look(handle))


async def look(handle) -> None:
    with contextlib.suppress(RPCError):
        await handle.describe()


asyncio.run(main(sys.argv[1]))
