"""What is shown while one waits: a spinner and a bar in a terminal, a few plain lines elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orkestra.cli.demo.worker import WorkerProcess

_LINES: Final = 5
_LOOK: Final = 0.2


def waiting(console: Console, what: str) -> AbstractContextManager[Any]:
    """Show a spinner beside what is waited for; nothing where nobody watches."""
    return console.status(f"{what} ...")


@contextmanager
def show_progress(console: Console, *, total: int) -> Generator[Callable[[], None]]:
    """Show how many of the tickets have ended; call what is yielded after each."""
    if not console.is_terminal:
        yield _Lines(console, total).count
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Tickets", total=total)
        yield lambda: bar.advance(task)


class _Lines:
    """Progress as a few lines."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._ended = 0

    def count(self) -> None:
        before = self._ended * _LINES // self._total
        self._ended += 1
        if self._ended * _LINES // self._total > before:
            self._console.print(f"{self._ended} of {self._total} tickets have ended")


@asynccontextmanager
async def follow_log(console: Console, worker: WorkerProcess) -> AsyncGenerator[None]:
    """Print what the worker logs, as it does."""
    shown = 0

    def show_new() -> None:
        nonlocal shown
        log = worker.log()
        complete = log.rfind("\n") + 1
        for line in log[shown:complete].splitlines():
            console.print(f"[dim]worker | {escape(line)}[/]", soft_wrap=True)
        shown = max(shown, complete)

    async def follow() -> None:
        while True:
            show_new()
            await asyncio.sleep(_LOOK)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        show_new()
