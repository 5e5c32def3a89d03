"""Requests of a hostile tenant that name another tenant's work, on the real server."""

import asyncio
from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from temporalio.api.batch.v1 import BatchOperationTermination
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.service import RPCError

from orkestra import TenantMismatchError
from orkestra.directory import Placements, StaticTenantDirectory, TenantRecord
from tests.support.guard_attack import Attack, refused
from tests.support.guarded_clients import SOON, completed_elsewhere
from tests.support.requests import ALLOWED
from tests.workflows.everything import Mailbox


async def test_b06_another_namespace_cannot_be_reached(attack):
    elsewhere = Client(attack.acme.service_client, namespace="second")
    await refused(
        elsewhere.get_workflow_handle(f"{attack.desk.acme}:x").describe(), match="namespace"
    )
    await refused(elsewhere.count_workflows(), match="namespace")
    with pytest.raises(TenantMismatchError, match="cannot be moved to namespace 'second'"):
        Client(**{**attack.acme.config(), "namespace": "second"})
    await refused(attack.service.start_workflow_execution(attack.start(namespace="second")))
    request = api.ExecuteMultiOperationRequest(namespace="default")
    request.operations.add(start_workflow=attack.start(namespace="second"))
    await refused(
        attack.service.execute_multi_operation(request),
        match=r"operations\[0\]\.start_workflow\.namespace",
    )


REACHES: dict[str, Callable[[Attack], Message]] = {
    "terminate_workflow_execution": lambda a: api.TerminateWorkflowExecutionRequest(
        namespace="default", workflow_execution=a.of_target()
    ),
    "request_cancel_workflow_execution": lambda a: api.RequestCancelWorkflowExecutionRequest(
        namespace="default", workflow_execution=a.of_target()
    ),
    "signal_workflow_execution": lambda a: api.SignalWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=a.of_target(),
        signal_name="note",
        header=a.header(a.desk.beta),
    ),
    "delete_workflow_execution": lambda a: api.DeleteWorkflowExecutionRequest(
        namespace="default", workflow_execution=a.of_target()
    ),
    "reset_workflow_execution": lambda a: api.ResetWorkflowExecutionRequest(
        namespace="default", workflow_execution=a.of_target(), workflow_task_finish_event_id=3
    ),
    "pause_workflow_execution": lambda a: api.PauseWorkflowExecutionRequest(
        namespace="default", workflow_id=a.target.id
    ),
    "get_workflow_execution_history": lambda a: api.GetWorkflowExecutionHistoryRequest(
        namespace="default", execution=a.of_target()
    ),
    "get_workflow_execution_history_reverse": lambda a: (
        api.GetWorkflowExecutionHistoryReverseRequest(namespace="default", execution=a.of_target())
    ),
    "describe_workflow_execution": lambda a: api.DescribeWorkflowExecutionRequest(
        namespace="default", execution=a.of_target()
    ),
    "query_workflow": lambda a: api.QueryWorkflowRequest(
        namespace="default", execution=a.of_target()
    ),
    "describe_schedule": lambda a: api.DescribeScheduleRequest(
        namespace="default", schedule_id=a.target.id
    ),
    "start_batch_operation": lambda a: api.StartBatchOperationRequest(
        namespace="default",
        job_id="j",
        reason="r",
        executions=[a.of_target()],
        termination_operation=BatchOperationTermination(),
    ),
    "describe_task_queue": lambda a: api.DescribeTaskQueueRequest(
        namespace="default", task_queue=TaskQueue(name=a.desk.queue)
    ),
    "list_workers": lambda _: api.ListWorkersRequest(namespace="default"),
    "list_namespaces": lambda _: api.ListNamespacesRequest(),
    "scan_workflow_executions": lambda _: api.ScanWorkflowExecutionsRequest(namespace="default"),
    "list_open_workflow_executions": lambda _: api.ListOpenWorkflowExecutionsRequest(
        namespace="default"
    ),
    "poll_workflow_task_queue": lambda a: api.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=TaskQueue(name=a.desk.queue)
    ),
    "shutdown_worker": lambda a: api.ShutdownWorkerRequest(
        namespace="default", sticky_task_queue=a.desk.queue
    ),
}


@pytest.mark.parametrize("rpc", REACHES)
async def test_b06_raw_requests_cannot_reach_another_tenants_work(attack, rpc):
    await refused(getattr(attack.service, rpc)(REACHES[rpc](attack)), match=rpc)


async def test_the_operator_service_is_refused(attack):
    request = ListSearchAttributesRequest(namespace="default")
    await refused(attack.acme.operator_service.list_search_attributes(request))


async def test_a_request_of_another_rpcs_type_is_refused(attack):
    """The stub does not check what it sends: field 2 is an execution in both."""
    request = api.TerminateWorkflowExecutionRequest(
        namespace="default", workflow_execution=attack.of_target()
    )
    await refused(attack.service.describe_namespace(request), match="it takes")


async def test_a_request_that_changes_during_the_call_is_sent_as_checked(attack):
    own = await attack.desk.mailbox(attack.desk.acme, "own")
    request = api.DescribeWorkflowExecutionRequest(namespace="default")
    request.execution.workflow_id = own.id

    async def change() -> None:
        request.execution.workflow_id = attack.target.id

    described, _ = await asyncio.gather(
        attack.service.describe_workflow_execution(request), change()
    )
    assert described.workflow_execution_info.execution.workflow_id == own.id
    await own.terminate()


@pytest.mark.parametrize(
    ("rpc", "named", "fields"),
    [
        ("describe_workflow_execution", "execution", {}),
        ("terminate_workflow_execution", "workflow_execution", {}),
        ("request_cancel_workflow_execution", "workflow_execution", {}),
        ("delete_workflow_execution", "workflow_execution", {}),
        (
            "reset_workflow_execution",
            "workflow_execution",
            {"workflow_task_finish_event_id": 3, "request_id": "r"},
        ),
        ("get_workflow_execution_history", "execution", {}),
        ("get_workflow_execution_history_reverse", "execution", {}),
        ("pause_activity", "execution", {"id": "1"}),
    ],
)
async def test_another_tenants_run_is_not_found_under_the_callers_id(attack, rpc, named, fields):
    own = await attack.desk.mailbox(attack.desk.acme, "own")
    run = (await attack.target.describe()).run_id
    execution = WorkflowExecution(workflow_id=own.id, run_id=run)
    request = ALLOWED[rpc].message(namespace="default", **{named: execution}, **fields)
    with pytest.raises(RPCError, match="not found"):
        await getattr(attack.service, rpc)(request)
    await own.terminate()


@pytest.mark.parametrize(
    "rpc",
    [
        *("describe_activity_execution", "poll_activity_execution", "pause_activity_execution"),
        *("terminate_activity_execution", "delete_activity_execution"),
        *("respond_activity_task_completed_by_id", "record_activity_task_heartbeat_by_id"),
    ],
)
async def test_another_tenants_activity_run_is_not_found_under_the_callers_id(attack, rpc):
    desk = attack.desk
    own, theirs = await desk.open_activity(desk.acme), await desk.open_activity(desk.beta)
    run = (await theirs.describe()).activity_run_id
    request = ALLOWED[rpc].message(namespace="default", activity_id=own.id, run_id=run)
    with pytest.raises(RPCError, match="not found"):
        await getattr(attack.service, rpc)(request)
    if "workflow_id" in request.DESCRIPTOR.fields_by_name:
        request.workflow_id = f"{desk.acme}:mailbox"
        request.activity_id = theirs.id
        with pytest.raises(RPCError, match="not found"):
            await getattr(attack.service, rpc)(request)
    await own.terminate()
    await theirs.terminate()


@pytest.mark.parametrize("policy", list(WorkflowIDConflictPolicy))
async def test_a_start_under_another_tenants_id_starts_the_callers_own_workflow(attack, policy):
    handle = await attack.acme.start_workflow(
        Mailbox.run,
        id=attack.target.id,
        task_queue=attack.desk.queue,
        id_conflict_policy=policy,
    )
    assert handle.id == f"{attack.desk.acme}:{attack.target.id}"
    await handle.terminate()
    request = attack.start(workflow_id=attack.target.id, workflow_id_conflict_policy=int(policy))
    await refused(attack.service.start_workflow_execution(request), match="workflow_id")


async def test_b13_raw_priorities_cannot_break_fairness(attack):
    for priority in (
        Priority(),
        Priority(fairness_key="small"),
        Priority(fairness_key=attack.desk.acme, fairness_weight=1000),
        Priority(fairness_key=attack.desk.acme, priority_key=1),
    ):
        request = attack.start(priority=priority._to_proto())
        await refused(attack.service.start_workflow_execution(request), match="priority")
    handle = await attack.acme.start_workflow(
        Mailbox.run,
        id="urgent",
        task_queue=attack.desk.queue,
        priority=Priority(priority_key=1, fairness_key="small", fairness_weight=1000),
    )
    sent = (await handle.fetch_history()).events[0].workflow_execution_started_event_attributes
    assert (sent.priority.priority_key, sent.priority.fairness_key) == (3, attack.desk.acme)
    await handle.terminate()


async def test_b11_a_queue_of_another_tenant_is_refused(attack):
    desk = attack.desk
    placements = Placements(
        StaticTenantDirectory(
            TenantRecord(tenant, task_queues={"queue": f"{tenant}-only"})
            for tenant in (desk.acme, desk.beta)
        ),
        shared_namespace="default",
    )
    await placements.of(desk.acme)
    client = desk.client(desk.acme, placements=placements)
    theirs = f"{desk.beta}-only"
    action = ScheduleActionStartWorkflow(Mailbox.run, id="s", task_queue=theirs)
    for call in (
        client.start_workflow(Mailbox.run, id="q", task_queue=theirs),
        client.start_activity(
            completed_elsewhere, id="q", task_queue=theirs, start_to_close_timeout=SOON
        ),
        client.create_schedule("q", Schedule(action=action, spec=ScheduleSpec())),
    ):
        await refused(call, match=r"task_queue\.name")
    handle = await client.start_workflow(Mailbox.run, id="q", task_queue=f"{desk.acme}-only")
    await handle.terminate()
