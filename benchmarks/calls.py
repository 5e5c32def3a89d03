"""Cost of the parts of one call, each in alternation with the call without it."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio.api.workflowservice.v1 import (
    SignalWorkflowExecutionResponse,
    StartWorkflowExecutionResponse,
)
from temporalio.client import Client
from temporalio.service import ConnectConfig, ServiceClient

from orkestra import OrkestraConfig, OrkestraPlugin
from orkestra.temporal.guard.query import scope_query

ROUNDS, CALLS = 15, 200
QUERIES = {
    "list query, none": None,
    "list query, one term": "WorkflowType = 'Order'",
    "list query, six terms": (
        "(WorkflowType = 'Order' OR WorkflowType IN ('Refund', 'Return')) AND ExecutionStatus ="
        " 'Running' AND StartTime BETWEEN '2026-01-01T00:00:00Z' AND '2026-02-01T00:00:00Z'"
        " AND WorkflowId STARTS_WITH 'order-' ORDER BY StartTime"
    ),
}


class Echo(ServiceClient):
    """Service client that answers every call at once."""

    @property
    def worker_service_client(self) -> Any:
        raise NotImplementedError

    def update_rpc_metadata(self, metadata: Any) -> None:
        raise NotImplementedError

    def update_api_key(self, api_key: str | None) -> None:
        raise NotImplementedError

    async def _rpc_call(self, rpc: str, req: Any, resp_type: Any, **_: Any) -> Any:
        return _ANSWERS.get(resp_type) or resp_type()


_ANSWERS = {
    StartWorkflowExecutionResponse: StartWorkflowExecutionResponse(run_id="run"),
    SignalWorkflowExecutionResponse: SignalWorkflowExecutionResponse(),
}

Call = Callable[[Client], Awaitable[object]]


async def start(client: Client) -> object:
    return await client.start_workflow("Order", "42", id="order-42", task_queue="orders")


async def signal(client: Client) -> None:
    await client.get_workflow_handle("order-42").signal("note", "hi")


async def cost(call: Call, client: Client) -> float:
    """Return the CPU of one call in microseconds."""
    began = time.process_time()
    for _ in range(CALLS):
        await call(client)
    return (time.process_time() - began) / CALLS * 1e6


async def compared(call: Call) -> dict[str, list[float]]:
    """Measure a call of the bare SDK, of Orkestra, and of the guard alone."""
    service = Echo(ConnectConfig("localhost:7233", lazy=True))
    plugin = OrkestraPlugin(OrkestraConfig(), tenant="acme")
    ours = Client(service, plugins=[plugin])
    unguarded = Client(service, interceptors=ours.config(active_config=True)["interceptors"])
    costs: dict[str, list[float]] = {"bare": [], "ours": [], "guard": []}
    for number in range(ROUNDS + 1):
        bare = await cost(call, Client(service))
        without = await cost(call, unguarded)
        whole = await cost(call, ours)
        if number:
            costs["bare"].append(bare)
            costs["ours"].append(whole - bare)
            costs["guard"].append(whole - without)
    return costs


def rewriting(query: str | None) -> list[float]:
    costs: list[float] = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            scope_query(query, tenant="acme", attribute="tenantId", id_field="WorkflowId")
        costs.append((time.process_time() - began) / CALLS * 1e6)
    return costs


async def main() -> dict[str, dict[str, list[float]]]:
    measured = {"start": await compared(start), "signal": await compared(signal)}
    return measured | {name: {"ours": rewriting(query)} for name, query in QUERIES.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())), flush=True)
    sys.stdin.read()
