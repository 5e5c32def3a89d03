"""Start-up time of a process by stages; each figure needs a new process."""

import asyncio
import importlib
import json
import sys
import time


def imports(variant: str) -> dict[str, float]:
    """Measure the CPU seconds of the imports of a variant."""
    began = time.process_time()
    importlib.import_module("temporalio.client")
    importlib.import_module("temporalio.worker")
    imported = {"import of the SDK": time.process_time() - began}
    if variant.startswith("tenancy"):
        importlib.import_module("orkestra")
    return imported | {"import": time.process_time() - began}


async def stages(variant: str, address: str) -> dict[str, float]:
    """Measure the CPU seconds until the client is connected and the worker has run a workflow, and
    the seconds that the worker takes to stop."""
    from benchmarks.scenarios import SCENARIOS  # noqa: PLC0415 - after the imports were measured
    from benchmarks.variants import TENANT, VARIANTS  # noqa: PLC0415 - likewise

    began = time.process_time()
    setup = VARIANTS[variant](None)
    client = await setup.connect(address)
    connected = time.process_time()
    bound = await VARIANTS[variant](TENANT).connect(address)
    queue = f"startup {variant}"
    worker = setup.worker(client, queue)
    running = asyncio.create_task(worker.run())
    starting = time.process_time()
    await SCENARIOS["one activity"].run(bound, queue, 1)
    first = time.process_time()
    stopping = time.perf_counter()
    await worker.shutdown()
    await running
    return {
        "connect": connected - began,
        "first workflow": first - starting,
        "drain": time.perf_counter() - stopping,
    }


if __name__ == "__main__":
    importing = imports(sys.argv[1])
    from benchmarks.answers import own_stdout

    out = own_stdout()
    print(json.dumps({**importing, **asyncio.run(stages(*sys.argv[1:]))}), file=out, flush=True)
