"""Workers that were made and do not run: the SDK ends them only after they have run."""

import asyncio
import logging
from typing import Final

from temporalio.worker import Worker

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_TIMEOUT: Final = 1.0


def never_started(worker: Worker) -> bool:
    """Whether the worker has not polled yet, and may still do so."""
    return not worker.is_running and not worker.is_shutdown


async def end_idle_worker(worker: Worker) -> None:
    """End the core's part of a worker that never polled, which holds a socket.

    Args:
        worker: Any worker; one that has run is left as it is. It cannot run after this.
    """
    if worker._started:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - is_shutdown is also true of one that has failed to start
        return
    worker._shutdown_complete_event.set()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - or shutdown() waits for ever
    core = worker._bridge_worker  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no public way to end it
    if core._ref is None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType] - another was made in its place
        return
    core.initiate_shutdown()
    polling = (
        worker._workflow_worker,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        worker._activity_worker,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        worker._nexus_worker,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            await asyncio.gather(*(each.drain_poll_queue() for each in polling if each is not None))
            await core.finalize_shutdown()
    except (TimeoutError, RuntimeError, ValueError) as error:
        _logger.warning(
            "The worker of %r, which never ran, keeps its socket: %r", worker.task_queue, error
        )
