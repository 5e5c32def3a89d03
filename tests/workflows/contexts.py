"""A workflow that sends and gets values in each way, each value unlike all others."""

import asyncio
from datetime import timedelta
from typing import Any

import nexusrpc
import nexusrpc.handler
from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

SECONDS = timedelta(seconds=60)
ONCE = RetryPolicy(maximum_attempts=1)


@activity.defn
async def answers(question: str) -> str:
    if question.startswith("refuse"):
        raise ApplicationError("refused", f"details of {question}")
    return f"answer to {question}"


@nexusrpc.service
class Counter:
    asks: nexusrpc.Operation[str, str]


@nexusrpc.handler.service_handler(service=Counter)
class CounterHandler:
    @nexusrpc.handler.sync_operation
    async def asks(self, _: nexusrpc.handler.StartOperationContext, question: str) -> str:
        return f"answer to {question}"


@workflow.defn
class Answers:
    @workflow.run
    async def run(self, question: str) -> str:
        if question.startswith("refuse"):
            raise ApplicationError("refused", f"details of {question}")
        return f"answer to {question}"


@workflow.defn
class Listens:
    def __init__(self) -> None:
        self._told: str | None = None

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self._told is not None)
        return f"heard {self._told}"

    @workflow.signal
    def told(self, what: str) -> None:
        self._told = what


@workflow.defn
class Sends:
    def __init__(self) -> None:
        self._signals: list[str] = []

    @workflow.run
    async def run(self, endpoint: str) -> list[str]:
        if endpoint:
            await self._send(endpoint)
            workflow.continue_as_new("")
        return ["continued"]

    async def _send(self, endpoint: str) -> None:
        me = workflow.info().workflow_id
        times: dict[str, Any] = {"start_to_close_timeout": SECONDS, "retry_policy": ONCE}
        nexus = workflow.create_nexus_client(service=Counter, endpoint=endpoint)
        await asyncio.gather(
            workflow.execute_activity(answers, "activity", **times),
            workflow.execute_local_activity(answers, "local activity", **times),
            workflow.execute_child_workflow(Answers.run, "child", id=f"{me}-child"),
            workflow.get_external_workflow_handle(f"{me}-other").signal("told", "signal"),
            nexus.execute_operation(Counter.asks, "nexus", schedule_to_close_timeout=SECONDS),
        )
        try:
            await workflow.execute_activity(answers, "refuse activity", **times)
        except ActivityError:
            workflow.upsert_memo({"note": "memo"})
        try:
            await workflow.execute_child_workflow(
                Answers.run, "refuse child", id=f"{me}-refused", retry_policy=ONCE
            )
        except ChildWorkflowError:
            await workflow.wait_condition(lambda: bool(self._signals))

    @workflow.signal
    def go_on(self, what: str) -> None:
        self._signals.append(what)

    @workflow.query
    def asked(self, what: str) -> str:
        return f"queried {what}"

    @workflow.update
    def change(self, what: str) -> str:
        return f"updated {what}"


WORKFLOWS = [Sends, Answers, Listens]
