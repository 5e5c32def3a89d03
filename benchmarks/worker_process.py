"""A worker in a process of its own, which tells how much CPU and memory it has used."""

import asyncio
import resource
import sys
import time

from benchmarks.variants import make_worker


async def serve(variant: str, address: str) -> None:
    async with await make_worker(variant, address):
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(time.process_time(), peak, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
