"""The worker's process: loads the application, checks what is open, and runs.

It is started anew for each change, so that no module is left half reloaded. It does what the
process that watches it says on standard input, and ends when that one does.
"""

import asyncio
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NoReturn

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra.cli.connecting import log_core_to_python, operator_client
from orkestra.cli.dev.drift import Check, open_executions
from orkestra.cli.dev.loading import (
    Source,
    counts_of,
    explain,
    first_party_files,
    load_workers,
)
from orkestra.cli.dev.messages import Checked, Drifted, Loaded, Running, tell
from orkestra.temporal.lifecycle import run_worker

BROKEN: Final = 3
"""Exit code where the application cannot be loaded, which was told."""

GO: Final = b"go\n"
"""The word that lets the worker run."""

_logger: Final = logging.getLogger(__name__)
_CHECK_WITHIN: Final = 30.0
_CONNECT_WITHIN: Final = timedelta(seconds=10)
_LAST_GRACE: Final = 15.0
_LOOK: Final = 1.0
_MOST_TOLD: Final = 5


@dataclass(frozen=True)
class _Orders:
    """What the watching process says."""

    may_go: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        """Read standard input until the watching process is gone, and end then, too."""
        for line in sys.stdin.buffer:
            if line == GO:
                self.may_go.set()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_LAST_GRACE)
        os._exit(1)


async def _run(source: Source, pipe: int, *, force: bool) -> int:
    orders = _Orders()
    threading.Thread(target=orders.follow, name="orkestra-orders", daemon=True).start()
    try:
        workers = await load_workers(source)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the developer's, and told
        tell(pipe, Loaded(first_party_files(), trouble=explain(error)))
        return BROKEN
    tell(pipe, Loaded(first_party_files()))
    while not orders.may_go.is_set():  # noqa: ASYNC110 - it is set by a thread
        await asyncio.sleep(0.02)
    with _hushed():
        await _check(source, workers, pipe, force=force)
    tell(pipe, Running([each.task_queue for each in workers], *counts_of(workers)))
    return await run_worker(*workers)


async def _check(source: Source, workers: Sequence[Worker], pipe: int, *, force: bool) -> None:
    """Replay what is open; come back when all of it can go on, or has ended, or by force."""
    while True:
        found = await _drifted(source, workers, pipe)
        if not found or force:
            return
        while found <= await _open_runs(source, workers):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(_LOOK)


async def _drifted(source: Source, workers: Sequence[Worker], pipe: int) -> set[str]:
    """Replay what is open, tell of it, and return the runs that cannot go on."""
    replayed = left_out = 0
    drifted: list[Drifted] = []
    try:
        async with asyncio.timeout(_CHECK_WITHIN):
            for worker in workers:
                async with _operator(source, worker) as operator:
                    executions, more = await open_executions(operator, worker)
                    left_out += more + len(executions)
                    check = Check(operator, worker)
                    for each in executions:
                        found = await check.drift_of(each)
                        replayed, left_out = replayed + 1, left_out - 1
                        drifted += [] if found is None else [found]
    except (TimeoutError, RPCError) as error:
        _logger.warning("Not all open executions were checked: %r", error)
    tell(pipe, Checked(replayed, left_out, drifted[:_MOST_TOLD], len(drifted)))
    return {each.run_id for each in drifted}


async def _open_runs(source: Source, workers: Sequence[Worker]) -> set[str]:
    found: set[str] = set()
    for worker in workers:
        async with _operator(source, worker) as operator:
            executions, _ = await open_executions(operator, worker)
            found |= {each.run_id for each in executions}
    return found


@asynccontextmanager
async def _operator(source: Source, worker: Worker) -> AsyncGenerator[Client]:
    async with operator_client(
        source.config().temporal,
        namespace=worker.client.namespace,
        deadline=_CONNECT_WITHIN,
        verify_namespace=False,
    ) as client:
        yield client


class _Hush(logging.Filter):
    """Leaves out what the SDK says of replays, which comes late from its core."""

    until = math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """See base class."""
        return not record.name.startswith("temporalio.") or record.created > self.until


@contextmanager
def _hushed() -> Generator[None]:
    hush = _Hush()
    for handler in logging.getLogger().handlers:
        handler.addFilter(hush)
    try:
        yield
    finally:
        hush.until = time.time()


def main(arguments: Sequence[str]) -> NoReturn:
    """Run, and end the process with the worker's exit code.

    Args:
        arguments: The application, its queue or nothing, its configuration file or nothing, the
            descriptor of a pipe for messages, and `force` or `hold`.
    """
    app, task_queue, config_file, pipe, drift = arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "orkestra", "temporalio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log_core_to_python()
    os.set_inheritable(int(pipe), False)  # noqa: FBT003 - it takes nothing by name
    code = 1
    try:
        source = Source(app, task_queue or None, config_file or None)
        code = asyncio.run(_run(source, int(pipe), force=drift == "force"))
    except Exception:
        _logger.exception("The worker failed")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # As `orkestra.cli.main()`: the SDK's threads abort an interpreter on its way out.
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
