"""Everything that the demo starts, and ends: a Temporal server, a page for traces, a worker."""

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeVar

from temporalio.client import Client

from orkestra.cli.demo.options import Options
from orkestra.cli.demo.worker import DemoError, WorkerProcess, worker_environment
from orkestra.config import LangfuseSettings, OrkestraConfig, TemporalSettings
from orkestra.devserver import DevServer
from orkestra.temporal.health import check_temporal_health
from orkestra.temporal.manager import TemporalConnectionManager

if TYPE_CHECKING:
    from orkestra.tracepage import TracePage

_Result = TypeVar("_Result")

_READY_WITHIN: Final = timedelta(seconds=60)
_LOOK: Final = timedelta(seconds=5)
_PAUSE: Final = 0.1


@dataclass(frozen=True)
class Stage:
    """What the demo runs on.

    Attributes:
        server: A Temporal server with its UI.
        manager: The connection of everybody but the worker.
        worker: The support desk.
        langfuse: Where the traces go.
        page: Takes and shows the traces where no Langfuse is configured; None where one is, or
            where the SDK of Langfuse is not installed.
    """

    server: DevServer
    manager: TemporalConnectionManager
    worker: WorkerProcess
    langfuse: LangfuseSettings
    page: "TracePage | None"

    def check(self) -> None:
        """Make sure that server and worker run.

        Raises:
            DemoError: One of them has ended.
        """
        if not self.server.is_running:
            msg = f"the Temporal server ended; its log ends with:\n{self.server.output}"
            raise DemoError(msg)
        self.worker.check()

    async def watched(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do some work as long as server and worker run.

        Args:
            work: What to do.

        Returns:
            Its result.

        Raises:
            DemoError: Server or worker have ended.
        """
        watching, working = asyncio.create_task(self._watch()), asyncio.create_task(work)
        try:
            await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            return working.result()
        finally:
            watching.cancel()
            working.cancel()
            await asyncio.gather(watching, working, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.check()
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def open_stage(options: Options, *, task_queue: str) -> AsyncGenerator[Stage]:
    """Start everything and wait until the worker polls; end everything afterwards.

    Args:
        options: What the demo was asked for.
        task_queue: The queue of the support desk.

    Raises:
        OrkestraError: Something could not be started.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="orkestra-demo-")))
        langfuse, page = options.langfuse, None
        if not langfuse.is_on and importlib.util.find_spec("langfuse"):
            from orkestra.tracepage import TracePage  # noqa: PLC0415 - only where it is used

            page = stack.enter_context(TracePage(folder / "traces.db"))
            langfuse = page.settings()
        server = await stack.enter_async_context(DevServer(ui=True))
        environment = worker_environment(
            folder,
            examples=options.examples,
            address=server.address,
            langfuse=langfuse,
            is_langfuse_theirs=options.langfuse.is_on,
        )
        worker = WorkerProcess(folder, task_queue=task_queue, environment=environment)
        stack.push_async_callback(worker.end)
        config = OrkestraConfig(
            temporal=TemporalSettings(address=server.address), langfuse=langfuse
        )
        manager = await stack.enter_async_context(TemporalConnectionManager(config))
        stage = Stage(server, manager, worker, langfuse, page)
        await _until_polled(stage, task_queue)
        yield stage


async def _until_polled(stage: Stage, task_queue: str) -> None:
    operator = await Client.connect(stage.server.address)
    try:
        async with asyncio.timeout(_READY_WITHIN.total_seconds()):
            while not await check_temporal_health(operator, timeout=_LOOK, task_queue=task_queue):
                stage.check()
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        seconds = _READY_WITHIN.total_seconds()
        msg = f"the worker did not poll task queue {task_queue!r} within {seconds:.0f} s"
        raise DemoError(msg) from None
