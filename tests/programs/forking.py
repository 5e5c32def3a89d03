"""Uses a connection in a forked child and then in the parent: `forking.py ADDRESS CASE`."""

import asyncio
import os
import sys

from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig

from orkestra import OrkestraConfig, OrkestraError, TemporalConnectionManager
from orkestra.config import TemporalSettings
from orkestra.temporal.connection import open_connection

settings = TemporalSettings(address=sys.argv[1])
case = sys.argv[2]
manager = TemporalConnectionManager(OrkestraConfig(temporal=settings))
parents: list[Client] = []


async def healthy(client: Client) -> str:
    async with asyncio.timeout(30):
        return "healthy" if await client.service_client.check_health() else "unhealthy"


async def in_child() -> str:
    if case == "client":
        return await healthy(parents[0])
    if case in {"manager", "unopened"}:
        return await healthy(await manager.get_client())
    if case == "close":
        await manager.close()
        return "closed"
    runtime = Runtime(telemetry=TelemetryConfig()) if case == "runtime" else None
    connection = await open_connection(settings, runtime=runtime)
    return await healthy(Client(connection.service_client))


def say(who: str, what: str) -> None:
    sys.stdout.write(f"{who}: {what}\n")
    sys.stdout.flush()


async def connect() -> None:
    parents.append(await manager.get_client())


def fork() -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        say("child", asyncio.run(in_child()))
    except OrkestraError as error:
        say("child", f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)  # the parent's runtime cannot be ended here


if case == "unopened":
    fork()
    asyncio.run(connect())
else:
    asyncio.run(connect())
    fork()
say("parent", asyncio.run(healthy(parents[0])))
asyncio.run(manager.close())
