"""The same worker and client, with more and more of Orkestra in them."""

from collections.abc import Callable, Mapping
from typing import Final

from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.workload import OneActivity, greet
from orkestra import OrkestraConfig, OrkestraPlugin

BARE: Final = "bare SDK"


def tenancy() -> list[OrkestraPlugin]:
    return [OrkestraPlugin(OrkestraConfig())]


def tenancy_and_tracing() -> list[OrkestraPlugin]:
    return [OrkestraPlugin(OrkestraConfig.load())]


VARIANTS: Final[Mapping[str, Callable[[], list[OrkestraPlugin]]]] = {
    BARE: list,
    "tenancy": tenancy,
    "tenancy + tracing": tenancy_and_tracing,
}
"""How each variant is made; tracing is on where the environment has Langfuse's keys."""


async def connect(variant: str, address: str, *, tenant: str | None) -> Client:
    """A client of the variant, bound to the tenant where it knows of tenants."""
    plugins = [plugin.for_tenant(tenant) if tenant else plugin for plugin in VARIANTS[variant]()]
    return await Client.connect(address, plugins=plugins)


async def make_worker(variant: str, address: str) -> Worker:
    """A worker of the variant on the queue of its name."""
    client = await connect(variant, address, tenant=None)
    return Worker(client, task_queue=variant, workflows=[OneActivity], activities=[greet])
