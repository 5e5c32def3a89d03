"""Replayers whose threads end with them: the SDK leaves those that it makes to the collector."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from temporalio.worker import Replayer


@contextmanager
def replaying(**options: Any) -> Iterator[Replayer]:
    with ThreadPoolExecutor(2) as threads:
        yield Replayer(workflow_task_executor=threads, **options)
