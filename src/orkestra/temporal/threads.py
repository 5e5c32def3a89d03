"""The threads of activities that are not async."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self


class ActivityThreads(ThreadPoolExecutor):
    """Threads that were made for one worker, and end when it has run.

    A class of its own, so that threads which users bring are left alone.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, thread_name_prefix="orkestra-activity")
        self._count = count

    def renewed(self) -> Self:
        """As many threads, for a worker that takes the first one's place."""
        return type(self)(self._count)

    def end(self) -> None:
        """Let idle threads end now; busy ones are not waited for."""
        self.shutdown(wait=False, cancel_futures=True)
