"""Activities whose effects can be counted, and ones that take their first attempt's time."""

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

STEPS = 3


@activity.defn
async def write_row(seconds: float) -> None:
    info = activity.info()
    key = (info.workflow_id, info.workflow_run_id, info.activity_id)
    await asyncio.to_thread(_note, "runs", key)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(_note, "effects", key)


def _note(table: str, key: tuple[str | None, ...]) -> None:
    with closing(sqlite3.connect(os.environ["LEDGER"], timeout=30)) as ledger, ledger:
        ledger.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?)", key)  # noqa: S608 - one of two


@workflow.defn
class WriteRows:
    @workflow.run
    async def run(self, seconds: float) -> int:
        for _ in range(STEPS):
            await workflow.execute_activity(
                write_row,
                seconds,
                start_to_close_timeout=timedelta(seconds=5),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)),
            )
        return STEPS


@activity.defn
async def first_obeys(seconds: float) -> int:
    if activity.info().attempt == 1:
        await asyncio.sleep(seconds)
    return activity.info().attempt


@activity.defn
async def first_ignores(seconds: float) -> int:
    end = time.monotonic() + (seconds if activity.info().attempt == 1 else 0)
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue
    return activity.info().attempt


@activity.defn
def first_sits_in_a_thread(seconds: float) -> int:
    if activity.info().attempt == 1:
        time.sleep(seconds)
    return activity.info().attempt


@workflow.defn
class Persistent:
    @workflow.run
    async def run(self, name: str, seconds: float) -> int:
        return await workflow.execute_activity(
            name,
            seconds,
            start_to_close_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)),
            result_type=int,
        )
