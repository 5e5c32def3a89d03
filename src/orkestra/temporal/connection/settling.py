"""Waiting until the core itself holds no reference to a new client any more."""

import asyncio
import sys
from typing import Final

from temporalio.service import ServiceClient

_SETTLING: Final = 0.25
_TICK: Final = 0.001
_OUR_REFERENCES: Final = 2  # the client's attribute, and the argument of sys.getrefcount()


async def settle(sdk_client: ServiceClient) -> None:
    """Wait until the core's threads have given back their reference to a new client.

    They leave that to the next call into the core. Where none follows, the socket of a connection
    that nobody holds stays open: one in ten that were dropped without having been used.

    Args:
        sdk_client: A service client that has just been connected.
    """
    deadline = asyncio.get_running_loop().time() + _SETTLING
    while not _is_settled(sdk_client) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - the core tells nobody
        await asyncio.sleep(_TICK)


def _is_settled(sdk_client: ServiceClient) -> bool:
    core = sdk_client.worker_service_client._bridge_client  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else can tell
    if core is None:
        return True
    core.update_metadata(sdk_client.config.rpc_metadata)
    return sys.getrefcount(core._ref) <= _OUR_REFERENCES  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
