"""Workflow code that changes what Orkestra reads about it, and then sends something."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import nexusrpc
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue, WorkflowIDReusePolicy

SECONDS = timedelta(seconds=60)
SHARED: list[str] = []
"""State of a module of the user's own, which is imported anew for each workflow."""


@nexusrpc.service
class Counter:
    look: nexusrpc.Operation[str, str]


@activity.defn
async def innocent() -> str:
    return "ran"


@workflow.defn
class Innocent:
    @workflow.run
    async def run(self) -> str:
        return "ran"


@workflow.defn
class Forges:
    """Takes another tenant's name before anything looks, by what its own info lets it write."""

    @workflow.init
    def __init__(self, kind: str, forged: str, target: str) -> None:
        info: Any = workflow.info()
        data = json.dumps(forged).encode()
        info.headers["tenantId"] = Payload(metadata={"encoding": b"json/plain"}, data=data)
        info.typed_search_attributes.search_attributes.clear()

    @workflow.run
    async def run(self, kind: str, forged: str, target: str) -> str:
        if kind == "activity":
            return await workflow.execute_activity(innocent, start_to_close_timeout=SECONDS)
        if kind == "local activity":
            return await workflow.execute_local_activity(innocent, start_to_close_timeout=SECONDS)
        if kind == "child":
            return await workflow.execute_child_workflow(Innocent.run, id=target)
        if kind == "continue":
            workflow.continue_as_new(args=["none", forged, target])
        if kind == "signal":
            await workflow.get_external_workflow_handle(target).signal("finish")
        if kind == "nexus":
            client = workflow.create_nexus_client(service=Counter, endpoint=target)
            return await client.execute_operation(
                Counter.look, "", schedule_to_close_timeout=SECONDS
            )
        return kind


@workflow.defn
class Injects:
    """Writes a command past the interceptors, as its event loop lets it."""

    @workflow.run
    async def run(self, kind: str, name: str, target: str) -> str:
        data = json.dumps(name).encode()
        header = Payload(metadata={"encoding": b"json/plain"}, data=data)
        command: Any = asyncio.get_running_loop()._add_command()  # type: ignore[attr-defined]
        if kind == "signal":
            made = command.signal_external_workflow_execution
            made.workflow_execution.workflow_id = target
            made.signal_name = "finish"
        elif kind == "child":
            made = command.start_child_workflow_execution
            made.workflow_id, made.workflow_type = target, "Innocent"
        else:
            made = command.schedule_activity
            made.activity_id, made.activity_type = "1", "innocent"
            made.start_to_close_timeout.FromTimedelta(SECONDS)
        made.seq = 1
        made.headers["tenantId"].CopyFrom(header)
        await asyncio.sleep(0.01)
        return "issued"


class Disguised(str):
    """Text that begins with everything and equals nothing; what is sent is the text."""

    def startswith(self, *_: object) -> bool:  # type: ignore[override]
        return True

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


@workflow.defn
class AsksTheServer:
    """Has the server signal and start in its name, by an operation that looks like any other."""

    @workflow.run
    async def run(self, target: str) -> None:
        client = workflow.create_nexus_client(
            service="temporal.api.workflowservice.v1.WorkflowService",
            endpoint=Disguised("__temporal_system"),
        )
        await client.execute_operation(
            "SignalWithStartWorkflowExecution", target, schedule_to_close_timeout=SECONDS
        )


@workflow.defn
class Reaches:
    """Tries to end another workflow by its ID, and tells what became of it."""

    @workflow.run
    async def run(self, kind: str, target: str) -> str:
        try:
            if kind == "cancel":
                await workflow.get_external_workflow_handle(target).cancel()
            elif kind == "signal":
                await workflow.get_external_workflow_handle(target).signal("finish")
            else:
                policy = {"terminate": WorkflowIDReusePolicy.TERMINATE_IF_RUNNING}.get(
                    kind, WorkflowIDReusePolicy.ALLOW_DUPLICATE
                )
                child_id = Disguised(target) if kind == "disguised" else target
                child = await workflow.start_child_workflow(
                    Innocent.run, id=child_id, id_reuse_policy=policy
                )
                return child.id
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            return str(error)
        return "reached"


@workflow.defn
class Signals:
    """Signals what it is told to, and says what became of it."""

    @workflow.run
    async def run(self, target: str) -> str:
        try:
            await workflow.get_external_workflow_handle(target).signal("finish")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            return str(error).replace(target, "")
        return "signalled"


@workflow.defn
class Answers:
    """Answers whatever it is asked."""

    def __init__(self) -> None:
        self.is_done = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.is_done)

    @workflow.query(dynamic=True)
    def anything(self, name: str, _: Sequence[RawValue]) -> str:
        return f"secret of {workflow.info().workflow_id}, asked for {name}"


@workflow.defn
class Remembers:
    """Notes its tenant in its module, and shows what is noted there."""

    @workflow.run
    async def run(self, tenant: str) -> list[str]:
        SHARED.append(tenant)
        await asyncio.sleep(0)
        return SHARED


WORKFLOWS = [Answers, AsksTheServer, Forges, Injects, Innocent, Reaches, Remembers, Signals]
