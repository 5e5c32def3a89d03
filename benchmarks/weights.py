"""Shares of a constant backlog by fairness weights of 1, 2 and 4."""

import asyncio
import json
import sys
from collections import Counter
from datetime import timedelta

from temporalio import activity
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.worker import Worker

from orkestra import (
    CallableTenantDirectory,
    OrkestraConfig,
    OrkestraPlugin,
    TenantRecord,
    current_tenant,
)
from orkestra.devserver import DevServer

EACH, COUNTED = 100, 140
WEIGHTS = {"one": 1.0, "two": 2.0, "four": 4.0}
RECORDS = {name: TenantRecord(name, fairness_weight=weight) for name, weight in WEIGHTS.items()}
DONE: list[str | None] = []


@activity.defn
async def note() -> None:
    DONE.append(current_tenant())


async def waiting(client: Client) -> int:
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace="default",
            task_queue=TaskQueue(name="weights"),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_stats=True,
        )
    )
    return answer.stats.approximate_backlog_count


async def shares(partitions: int) -> list[float]:
    """The share of each tenant, while all three still wait."""
    DONE.clear()
    config: dict[str, int | str] = {
        "matching.numTaskqueueReadPartitions": partitions,
        "matching.numTaskqueueWritePartitions": partitions,
        "matching.TaskQueueInfoByBuildIdTTL": "50ms",
    }
    plugin = OrkestraPlugin(OrkestraConfig(), directory=CallableTenantDirectory(RECORDS.get))
    async with DevServer(dynamic_config=config) as server:
        raw = await Client.connect(server.address)
        clients = [Client(raw.service_client, plugins=[plugin.for_tenant(t)]) for t in WEIGHTS]
        handles = [
            await client.start_activity(
                note,
                id=str(number),
                task_queue="weights",
                start_to_close_timeout=timedelta(minutes=1),
            )
            for client in clients
            for number in range(EACH)
        ]
        while await waiting(raw) < len(handles):  # noqa: ASYNC110 - the server only answers
            await asyncio.sleep(0.05)
        unbound = Client(raw.service_client, plugins=[plugin])
        async with Worker(
            unbound, task_queue="weights", activities=[note], max_concurrent_activities=20
        ):
            await asyncio.gather(*(handle.result() for handle in handles))
    counted = Counter(DONE[:COUNTED])
    return [counted[tenant] / COUNTED for tenant in WEIGHTS]


async def main() -> dict[str, list[float]]:
    return {f"{count} partition(s)": await shares(count) for count in (1, 4)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())), flush=True)
    sys.stdin.read()
