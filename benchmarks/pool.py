"""Throughput of more than one connection: `python -m benchmarks.pool [--rounds N]`.

Calls per second of one process, directly and over a network with latency, by `temporal.pool_size`
and the number of concurrent calls. Sizes alternate, so that a drift of the machine affects all.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

from temporalio.client import Client
from temporalio.service import RPCError

from orkestra import OrkestraConfig, TemporalConnectionManager, TemporalSettings
from orkestra.devserver import DevServer
from tests.faults.proxy import Proxy

SIZES = (1, 2, 4, 8)
AT_ONCE = (1, 50, 500)
LATENCIES = (0.0, 0.02)
CALLS = 1500


async def main(rounds: int) -> None:
    """Measure, and print a Markdown table."""
    rates: dict[tuple[float, int, int], list[float]] = defaultdict(list)
    async with DevServer() as server, Proxy(server.address) as network:
        for _ in range(rounds):
            for latency in LATENCIES:
                network.latency = latency
                address = network.address if latency else server.address
                for at_once in AT_ONCE:
                    for size in SIZES:
                        rates[latency, at_once, size].append(await measure(address, at_once, size))
    say(
        "| latency | calls at once | "
        + " | ".join(f"{size} connection(s)" for size in SIZES)
        + " |"
    )
    say("| --- | --- |" + " --- |" * len(SIZES))
    for latency in LATENCIES:
        for at_once in AT_ONCE:
            medians = [statistics.median(rates[latency, at_once, size]) for size in SIZES]
            cells = " | ".join(f"{median:,.0f}/s" for median in medians)
            say(f"| {latency * 1000:.0f} ms | {at_once} | {cells} |")


async def measure(address: str, at_once: int, size: int) -> float:
    """Measure the calls per second with this concurrency and number of connections."""
    settings = TemporalSettings(address=address, pool_size=size)
    async with TemporalConnectionManager(OrkestraConfig(temporal=settings)) as manager:
        clients = [await manager.get_client(tenant="acme") for _ in range(size)]
        number = CALLS if at_once > 1 else CALLS // 15
        left = iter(range(number))
        for client in clients:
            await ask(client)
        started = time.perf_counter()
        callers = (call_on(clients[n % size], left) for n in range(at_once))
        await asyncio.gather(*callers)
        return number / (time.perf_counter() - started)


async def call_on(client: Client, left: Iterator[int]) -> None:
    """Make calls one after the other until none is left."""
    for _ in left:
        await ask(client)


async def ask(client: Client) -> None:
    """Make the cheapest call that reaches the database: it reads one missing row."""
    with suppress(RPCError):
        await client.get_workflow_handle("absent").describe()


def say(line: str) -> None:
    """Print a row of the table."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(main(parser.parse_args().rounds))
