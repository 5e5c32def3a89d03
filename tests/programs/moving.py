"""A client whose server's name moves: `moving.py HOSTS_FILE SERVER DNS_REFRESH`.

Runs where /etc/hosts is HOSTS_FILE. Prints through which of two proxies each call went.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from orkestra import TemporalSettings
from orkestra.temporal.connection import open_connection
from tests.faults.proxy import Proxy
from tests.support.waiting import until

NAME = "moving.test"


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def lead_to(address: str, hosts: Path) -> None:
    hosts.write_text(f"{address} {NAME}\n")


async def main(hosts: Path, server: str, refresh: float) -> None:
    async with (
        Proxy(server, host="127.0.0.1") as before,
        Proxy(server, host="127.0.0.2", port=before.port) as after,
    ):
        lead_to("127.0.0.1", hosts)
        connection = await open_connection(
            TemporalSettings(
                address=f"{NAME}:{before.port}",
                dns_refresh=timedelta(seconds=refresh) if refresh else None,
            )
        )
        health = connection.service_client.check_health
        await health()
        say("before", before.open, after.open)
        lead_to("127.0.0.2", hosts)
        if refresh:

            async def has_moved() -> bool:
                await health()
                return after.open > 0 and not before.open

            await until(has_moved)
        else:
            before.stop()
            before.cut()
        await health(retry=True)
        say("after", before.open, after.open)
        await connection.close()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
