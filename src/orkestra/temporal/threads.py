"""The threads of activities that are not async."""

from concurrent.futures import ThreadPoolExecutor


class ActivityThreads(ThreadPoolExecutor):
    """Threads that were made for one worker, and end when it has run.

    A class of its own, so that threads which users bring are left alone.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, thread_name_prefix="orkestra-activity")

    def end(self) -> None:
        """Let idle threads end now; busy ones are not waited for."""
        self.shutdown(wait=False, cancel_futures=True)
