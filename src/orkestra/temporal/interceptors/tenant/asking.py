"""Asking from the workflow's thread, which may wait a moment for the event loop but not longer.

The SDK gives an activation two seconds before it calls the workflow deadlocked. Whatever has not
come by then fails the workflow task, which the server tries again; the answer is there by then.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from orkestra.directory import Placement, Placements
from orkestra.errors import DirectoryUnavailableError

_Answer = TypeVar("_Answer")

_LONGEST: Final = 1.0
_BUDGET: Final = 1.6


class _DebuggedError(DirectoryUnavailableError):
    """The SDK's debug mode activates on the loop's own thread: waiting would be for ever."""


class Asking:
    """Asks the directory and the server for one run; made on the worker's event loop.

    Args:
        placements: Where tenants belong.
    """

    def __init__(self, placements: Placements) -> None:
        self._placements = placements
        self._started = 0.0
        self._placement: Placement | None = None
        self._thread = threading.get_ident()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # a workflow is validated, and nothing will be asked
            self._loop = None

    def start(self) -> None:
        """Begin an activation, whose time counts for all questions together."""
        self._started = time.monotonic()
        self._placement = None

    def placement(self, tenant: str) -> Placement:
        """Where the run's tenant belongs, the same for all of an activation.

        Raises:
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: It gave no answer in time.
        """
        if self._placement is None:
            self._placement = self._placements.remembered(tenant) or self._ask(tenant)
        return self._placement

    def _ask(self, tenant: str) -> Placement:
        try:
            return self.wait_for(lambda: self._placements.of(tenant))
        except _DebuggedError:
            last = self._placements.last(tenant)
            if last is None:
                raise
            return last

    def wait_for(self, question: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """Run a coroutine on the event loop and wait for what it returns.

        Raises:
            DirectoryUnavailableError: It took too long.
        """
        patience = min(_LONGEST, self._started + _BUDGET - time.monotonic())
        if self._loop is None or patience <= 0:
            msg = "there is no time left in this activation to ask whose work this is"
            raise DirectoryUnavailableError(msg)
        future = asyncio.run_coroutine_threadsafe(question(), self._loop)
        if threading.get_ident() == self._thread:
            msg = "in debug mode whose work this is cannot be awaited, only asked for the next try"
            raise _DebuggedError(msg)
        try:
            return future.result(patience)
        except TimeoutError:
            future.cancel()
            msg = f"it did not become known within {patience:.1f} s whose work this is"
            raise DirectoryUnavailableError(msg) from None
