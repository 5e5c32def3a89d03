"""Rows: later runs of a chain, which the server starts by itself."""

from datetime import timedelta
from typing import Any, Final

from temporalio.client import WorkflowHandle
from temporalio.common import RetryPolicy

from tests.matrix.model import Check, Impossible, Row
from tests.matrix.side import TENANT_ID, Side
from tests.support.waiting import until
from tests.workflows.matrix import SecondRun, SecondTick


async def _retried(side: Side) -> None:
    handle = await side.client.start_workflow(
        SecondRun.run,
        id=side.name(),
        task_queue=side.queue,
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
    )
    assert await handle.result() == side.tenant
    await _is_own(side, handle)


async def _ticked(side: Side) -> None:
    handle = await side.client.start_workflow(
        SecondTick.run, id=side.name(), task_queue=side.queue, cron_schedule="@every 1s"
    )
    latest = side.client.get_workflow_handle_for(SecondTick.run, side.name())

    async def second() -> Any:
        description = await latest.describe()
        if description.run_id == handle.first_execution_run_id or description.history_length < 4:
            return None
        is_second, tenant = await latest.query(SecondTick.ticks)
        return tenant if is_second else None

    assert await until(second) == side.tenant
    await _is_own(side, handle)
    await latest.terminate()


async def _is_own(side: Side, handle: WorkflowHandle[Any, Any]) -> None:
    description = await side.raw.get_workflow_handle(handle.id).describe()
    assert description.run_id != handle.first_execution_run_id
    assert description.typed_search_attributes[TENANT_ID] == side.tenant
    assert description.raw_info.priority.fairness_key == side.tenant


_SERVERS: Final = Impossible(
    "The server starts the run with the headers, attributes and ID of the one before it."
)
_SHOWS: Final = "the next run sees it; attribute and fairness key show it"

CHAINS: Final = tuple(
    Row(
        kind=kind,
        carried=Check(_SHOWS, run),
        missing=_SERVERS,
        mismatch=_SERVERS,
        other=_SERVERS,
    )
    for kind, run in (("workflow retry", _retried), ("cron", _ticked))
)
