"""Nexus handlers behind the guard: their workflow completes the caller's operation only."""

from collections.abc import AsyncIterator

import nexusrpc.handler
import pytest
from temporalio import nexus
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

from orkestra import ForbiddenOperationError
from tests.support.guarded_clients import GuardDesk
from tests.support.names import Fresh
from tests.workflows.nexus_caller import Backing, Caller, Desk

refusals: list[str] = []


@nexusrpc.handler.service_handler(service=Desk)
class Handler:
    @nexus.workflow_run_operation
    async def backed(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Backing.run, text, id="backing")

    @nexus.workflow_run_operation
    async def meddling(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        ctx.callback_headers["temporal-callback-token"] = "forged"  # type: ignore[index]
        try:
            return await ctx.start_workflow(Backing.run, text, id="meddling")
        except ForbiddenOperationError as error:
            refusals.append(str(error))
            raise nexusrpc.HandlerError(
                "refused", type=nexusrpc.HandlerErrorType.BAD_REQUEST
            ) from error


@pytest.fixture
async def endpoint(raw_client: Client, fresh: Fresh) -> str:
    name = f"endpoint-{fresh.suffix}"
    target = EndpointTarget.Worker(namespace="default", task_queue=fresh.task_queue("nexus"))
    await raw_client.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(
            spec=EndpointSpec(name=name, target=EndpointTarget(worker=target))
        )
    )
    return name


@pytest.fixture
async def desk(raw_client: Client, fresh: Fresh) -> AsyncIterator[GuardDesk]:
    made = GuardDesk(raw_client, fresh)
    async with Worker(
        made.client(None),
        task_queue=fresh.task_queue("nexus"),
        workflows=[Caller, Backing],
        nexus_service_handlers=[Handler()],
    ):
        yield made


async def test_a_workflow_that_backs_an_operation_completes_it(desk, endpoint, fresh):
    result = await desk.client(desk.acme).execute_workflow(
        Caller.run, args=[endpoint, "backed"], id="caller", task_queue=fresh.task_queue("nexus")
    )
    assert result == f"done by {desk.acme}:backing"


async def test_b06_a_handler_cannot_complete_another_callers_operation(desk, endpoint, fresh):
    refusals.clear()
    with pytest.raises(WorkflowFailureError):
        await desk.client(desk.acme).execute_workflow(
            Caller.run,
            args=[endpoint, "meddling"],
            id="caller",
            task_queue=fresh.task_queue("nexus"),
        )
    assert [text.partition(": ")[2] for text in refusals] == [
        "completion_callbacks[0]: it is not the callback of the Nexus task that this code handles"
    ]
