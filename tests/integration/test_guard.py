"""A hostile tenant with a client behind the gate, and another tenant's work on the real server."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio import activity
from temporalio.api.batch.v1 import BatchOperationTermination
from temporalio.api.common.v1 import Header, Payload, SearchAttributes, WorkflowExecution
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import (
    Client,
    HeaderCodecBehavior,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WorkflowHandle,
    WorkflowUpdateStage,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra import (
    ALL_TENANTS,
    ForbiddenOperationError,
    TenantMismatchError,
    TenantRequiredError,
    tenant_scope,
)
from orkestra.errors import InvalidQueryError, TenantError
from orkestra.temporal.guard import SharedQueues
from tests.guard_desk import SOON, GuardDesk, completed_elsewhere, eventually
from tests.guarding import payload
from tests.names import Fresh
from tests.workflows.everything import Mailbox


@dataclass
class Attack:
    """acme's client, with interceptors and without, and beta's open workflow."""

    desk: GuardDesk
    acme: Client
    bare: Client
    beta: Client
    target: WorkflowHandle[Any, Any]

    @property
    def service(self) -> Any:
        return self.acme.workflow_service

    def of_target(self) -> WorkflowExecution:
        return WorkflowExecution(workflow_id=self.target.id)

    def header(self, tenant: str | None = None) -> Header:
        return Header(fields={"tenantId": payload(tenant or self.desk.acme)})

    def start(self, **fields: Any) -> api.StartWorkflowExecutionRequest:
        """A raw start as the interceptors would have made it, with other fields in place."""
        acme = self.desk.acme
        made = api.StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=f"{acme}:raw",
            request_id="r",
            header=self.header(),
            search_attributes=SearchAttributes(
                indexed_fields={"tenantId": payload(acme, type=b"Keyword")}
            ),
            task_queue=TaskQueue(name=self.desk.queue),
        )
        made.workflow_type.name = "Mailbox"
        made.priority.fairness_key = acme
        replaced = api.StartWorkflowExecutionRequest(**fields)
        for name in fields:
            made.ClearField(name)
        made.MergeFrom(replaced)
        return made


@pytest.fixture
async def attack(raw_client: Client, fresh: Fresh) -> AsyncIterator[Attack]:
    desk = GuardDesk(raw_client, fresh)
    acme = desk.client(desk.acme)
    async with desk.worker():
        target = await desk.mailbox(desk.beta, "target")
        bare = Client(acme.service_client)
        yield Attack(desk, acme, bare, desk.client(desk.beta), target)
        # Whatever was tried, beta's workflow has neither ended nor heard of it.
        assert await desk.client(desk.beta).get_workflow_handle(target.id).query("count") == [
            0,
            desk.beta,
        ]
        await target.terminate()


async def refused(call: Any, *, match: str | None = None) -> None:
    with pytest.raises(ForbiddenOperationError, match=match):
        await call


# Comments in queries


QUERIES = (
    "WorkflowType='t' /* ' */ ) OR (tenantId='{beta}' /* ' */",
    "WorkflowType='t' -- ' \n) OR (tenantId='{beta}'",
    "WorkflowType='t' # ' \n) OR (tenantId='{beta}'",
    "WorkflowType='t' // ' \n) OR (tenantId='{beta}'",
    "X') OR (tenantId='{beta}'",
)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    ("service_call", "kind"),
    [
        ("list_workflow_executions", api.ListWorkflowExecutionsRequest),
        ("count_workflow_executions", api.CountWorkflowExecutionsRequest),
        ("list_schedules", api.ListSchedulesRequest),
        ("count_schedules", api.CountSchedulesRequest),
        ("list_activity_executions", api.ListActivityExecutionsRequest),
        ("count_activity_executions", api.CountActivityExecutionsRequest),
    ],
)
async def test_comments_in_a_query_do_not_open_it(attack, query, service_call, kind):
    request = kind(namespace="default", query=query.format(beta=attack.desk.beta))
    with pytest.raises(InvalidQueryError):
        await getattr(attack.service, service_call)(request)


async def test_no_query_lists_or_counts_what_is_anothers(attack):
    beta = attack.desk.beta

    async def visible() -> int:
        return (await attack.beta.count_workflows()).count

    await eventually(visible, 1)
    for client in (attack.acme, attack.bare):
        for query in (
            "",
            f"tenantId = '{beta}'",
            f"WorkflowId = '{attack.target.id}'",
            f"WorkflowId STARTS_WITH '{beta}' OR WorkflowType = 'Mailbox'",
            "WorkflowType = 'Mailbox' OR tenantId IS NOT NULL",
        ):
            assert [row.id async for row in client.list_workflows(query)] == []
            assert (await client.count_workflows(query)).count == 0
    assert (await attack.acme.count_workflows("GROUP BY ExecutionStatus")).groups == []


async def test_a_page_token_of_anothers_list_shows_nothing(attack):
    other = await attack.desk.mailbox(attack.desk.beta, "second")

    async def visible() -> int:
        return (await attack.beta.count_workflows()).count

    await eventually(visible, 2)
    page = await attack.beta.workflow_service.list_workflow_executions(
        api.ListWorkflowExecutionsRequest(namespace="default", page_size=1)
    )
    assert page.next_page_token
    stolen = await attack.service.list_workflow_executions(
        api.ListWorkflowExecutionsRequest(
            namespace="default", page_size=1, next_page_token=page.next_page_token
        )
    )
    assert list(stolen.executions) == []
    await other.terminate()


# Task tokens


@pytest.mark.parametrize("how", ["complete", "fail", "heartbeat", "report_cancellation"])
async def test_no_task_token_is_taken_although_the_server_would_take_it(attack, fresh, how):
    """A token is a message that anybody can write; this one is another tenant's, and good."""
    tokens: asyncio.Queue[bytes] = asyncio.Queue()

    @activity.defn
    async def leaking() -> str:
        tokens.put_nowait(activity.info().task_token)
        activity.raise_complete_async()

    queue = fresh.task_queue("leaking")
    async with Worker(attack.desk.unbound, task_queue=queue, activities=[leaking]):
        opened = await attack.beta.start_activity(
            leaking, id="leaking", task_queue=queue, start_to_close_timeout=SOON
        )
        token = await tokens.get()
        for client in (attack.acme, attack.bare):
            handle = client.get_async_activity_handle(task_token=token)
            arguments = [RuntimeError("no")] if how == "fail" else []
            await refused(getattr(handle, how)(*arguments), match="token")
        await attack.desk.raw.get_async_activity_handle(task_token=token).complete("taken")
        assert await opened.result() == "taken"


@pytest.mark.parametrize("how", ["complete", "fail", "heartbeat", "report_cancellation"])
async def test_anothers_activity_is_not_reached_by_id(attack, how):
    opened = await attack.desk.open_activity(attack.desk.beta)
    arguments = [RuntimeError("no")] if how == "fail" else []

    def handle(client: Client, workflow_id: str | None) -> Any:
        return client.get_async_activity_handle(
            workflow_id=workflow_id, run_id=None, activity_id=opened.id
        )

    await refused(getattr(handle(attack.bare, None), how)(*arguments), match="activity_id")
    await refused(getattr(handle(attack.bare, attack.target.id), how)(*arguments), match="workflow")
    await refused(getattr(handle(attack.bare, ""), how)(*arguments), match="activity_id")
    with pytest.raises(RPCError, match="not found"):
        await getattr(handle(attack.acme, None), how)(*arguments)
    await opened.terminate()


# Workers


async def test_a_bound_client_makes_no_worker(attack):
    for client in (attack.acme, attack.bare):
        with pytest.raises(ForbiddenOperationError):
            Worker(client, task_queue=attack.desk.queue, workflows=[Mailbox])
        with pytest.raises(ForbiddenOperationError, match="worker_service_client"):
            _ = client.service_client.worker_service_client.workflow_service


async def test_a_bound_client_does_not_take_over_a_running_worker(attack, fresh):
    async with Worker(
        attack.desk.unbound, task_queue=fresh.task_queue("w"), activities=[_nothing]
    ) as w:
        with pytest.raises(ForbiddenOperationError):
            w.client = attack.acme


@activity.defn
async def _nothing() -> None: ...


async def test_code_in_an_activity_has_no_more_than_its_tenant(attack, fresh):
    """The worker's own client serves all tenants, and an activity can ask for it."""
    found: list[str] = []

    @activity.defn
    async def hostile(target: str) -> str | None:
        client = activity.client()
        service = client.service_client
        tries: list[Callable[[], Any]] = [
            lambda: service.worker_service_client,
            lambda: service.inner,
            lambda: service.connection,
            lambda: Worker(client, task_queue="q", activities=[_nothing]),
        ]
        for attempt in tries:
            try:
                attempt()
                found.append("a way behind the gate")
            except ForbiddenOperationError:
                pass
        bare = Client(service)
        for call in (
            bare.get_workflow_handle(target).terminate(),
            bare.get_workflow_handle(target).describe(),
            bare.workflow_service.list_namespaces(api.ListNamespacesRequest()),
        ):
            try:
                await call
                found.append("a call")
            except ForbiddenOperationError:
                pass
        try:
            with tenant_scope(target.partition(":")[0]):
                found.append("a scope")
        except TenantMismatchError:
            pass
        try:
            await client.get_workflow_handle(target).terminate()
            found.append("the target")
        except RPCError:
            pass
        return activity.info().activity_id

    desk = attack.desk
    queue = fresh.task_queue("hostile")
    async with Worker(desk.unbound, task_queue=queue, activities=[hostile]):
        result = await attack.acme.execute_activity(
            hostile, attack.target.id, id="h", task_queue=queue, start_to_close_timeout=SOON
        )
    assert result == f"{desk.acme}:h"
    assert found == []


# Fields


async def test_another_namespace_is_not_reached_by_naming_it(attack, raw_client):
    elsewhere = Client(attack.acme.service_client, namespace="second")
    bound = attack.acme.config()
    cloned = Client(**{**bound, "namespace": "second"})
    for client in (elsewhere, cloned):
        await refused(
            client.get_workflow_handle(f"{attack.desk.acme}:x").describe(), match="namespace"
        )
        await refused(client.count_workflows(), match="namespace")
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
async def test_a_raw_request_does_not_reach_anothers_work(attack, rpc):
    await refused(getattr(attack.service, rpc)(REACHES[rpc](attack)), match=rpc)


async def test_the_operators_service_is_closed(attack):
    request = ListSearchAttributesRequest(namespace="default")
    await refused(attack.acme.operator_service.list_search_attributes(request))


async def test_one_request_cannot_be_passed_off_as_another(attack):
    """The stub does not look at what it sends: field 2 is an execution in both."""
    request = api.TerminateWorkflowExecutionRequest(
        namespace="default", workflow_execution=attack.of_target()
    )
    await refused(attack.service.describe_namespace(request), match="it takes")


async def test_a_request_that_changes_while_it_is_sent_is_sent_as_it_was_checked(attack):
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


# Clients without their interceptors


async def test_a_client_cloned_without_interceptors_is_told_to_stamp(attack):
    bare = Client(**{**attack.acme.config(), "plugins": [], "interceptors": []})
    start = bare.start_workflow(
        Mailbox.run, id=f"{attack.desk.acme}:x", task_queue=attack.desk.queue
    )
    await refused(start, match=r"search_attributes\.indexed_fields\['tenantId'\].*Client's own")
    await refused(bare.get_workflow_handle("x").describe(), match="scope_id")
    handle = bare.get_workflow_handle(f"{attack.desk.acme}:x")
    await refused(handle.signal("finish"), match=r"header\.fields\['tenantId'\]")
    await refused(handle.query("count"), match=r"query\.header")
    await refused(handle.execute_update("add", "x"), match=r"request\.input\.header")


async def test_a_raw_request_that_is_stamped_right_passes(attack):
    started = await attack.service.start_workflow_execution(attack.start())
    handle = attack.acme.get_workflow_handle("raw", run_id=started.run_id)
    await handle.signal("finish")
    assert await handle.result() == []


async def test_anothers_client_and_scope_do_not_help(attack):
    with tenant_scope(attack.desk.beta), pytest.raises(TenantMismatchError):
        await attack.acme.get_workflow_handle("target").describe()
    with pytest.raises(TenantRequiredError):
        await attack.desk.unbound.get_workflow_handle(attack.target.id).describe()
    for name in ("ALL_TENANTS", "*"):
        with pytest.raises(TenantError):
            attack.desk.client(name)


async def test_polls_without_interceptors_stay_inside(attack):
    secret = await attack.desk.mailbox(attack.desk.beta, "secret")
    update = await secret.start_update(
        Mailbox.add_checked, "x", wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="secret"
    )
    assert await update.result() == attack.desk.beta
    for name in (secret.id, attack.desk.fresh.workflow_id("secret")):
        polled = attack.bare.get_workflow_handle(name).get_update_handle("secret")
        with pytest.raises(RPCError, match="not found"):
            await polled.result()
    opened = await attack.desk.open_activity(attack.desk.beta)
    with pytest.raises(RPCError, match="not found"):
        await attack.bare.get_activity_handle(opened.id).result()
    await opened.terminate()
    await secret.terminate()


# Conflicts, priorities, queues


@pytest.mark.parametrize("policy", list(WorkflowIDConflictPolicy))
async def test_a_start_under_anothers_id_is_a_workflow_of_ones_own(attack, policy):
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


async def test_fairness_is_not_voided_by_raw_priorities(attack):
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


async def test_a_queue_of_another_tenant_cannot_be_named(attack):
    class Dedicated(SharedQueues):
        def queue_allowed(self, tenant: str, queue: str) -> bool:
            return queue == f"{tenant}-only"

    desk = attack.desk
    client = desk.client(desk.acme, grants=Dedicated())
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


# What clients share


async def test_what_clients_share_cannot_be_changed(attack):
    with pytest.raises(ForbiddenOperationError):
        attack.acme.rpc_metadata = {"temporal-namespace": "second"}
    with pytest.raises(ForbiddenOperationError):
        attack.acme.api_key = "mine"
    assert attack.desk.raw.rpc_metadata == {}
    for key in ("authorization", "temporal-namespace", "Temporal-Namespace"):
        await refused(attack.acme.count_workflows(rpc_metadata={key: "second"}), match="metadata")


# Codecs


class Sealing(PayloadCodec):
    """Hides everything, as an encrypting codec does."""

    async def encode(self, payloads: Any) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/sealed"}, data=p.SerializeToString())
            for p in payloads
        ]

    async def decode(self, payloads: Any) -> list[Payload]:
        return [Payload.FromString(p.data) for p in payloads]


async def test_what_a_codec_hides_is_refused_and_the_rest_passes(attack):
    desk = attack.desk
    sealed = DataConverter(payload_codec=Sealing())
    client = desk.client(desk.acme, data_converter=sealed)
    start: dict[str, Any] = {"task_queue": desk.queue}
    await refused(
        client.start_workflow(Mailbox.run, id="c", memo={"tenantId": desk.acme}, **start),
        match=r"memo\.fields\['tenantId'\]",
    )
    handle = await client.start_workflow(Mailbox.run, id="c", memo={"note": "secret"}, **start)
    await handle.terminate()
    hidden = desk.client(
        desk.acme, data_converter=sealed, header_codec_behavior=HeaderCodecBehavior.CODEC
    )
    await refused(
        hidden.start_workflow(Mailbox.run, id="d", **start), match=r"header\.fields\['tenantId'\]"
    )


# Closed by the server; held to it


async def test_history_is_not_paged_with_anothers_or_a_forged_token(attack):
    own = await attack.desk.mailbox(attack.desk.acme, "own")
    for handle in (own, attack.target):
        await attack.desk.raw.get_workflow_handle(handle.id).query("__stack_trace", [])

    async def page(client: Client, handle: Any, token: bytes = b"") -> Any:
        run = (await client.get_workflow_handle(handle.id).describe()).run_id
        return await client.workflow_service.get_workflow_execution_history(
            api.GetWorkflowExecutionHistoryRequest(
                namespace="default",
                execution=WorkflowExecution(workflow_id=handle.id, run_id=run),
                maximum_page_size=1,
                next_page_token=token,
            )
        )

    mine = (await page(attack.acme, own)).next_page_token
    theirs = (await page(attack.beta, attack.target)).next_page_token
    ours, others = _fields(mine), _fields(theirs)
    assert len(ours) > 3
    taken = sorted(set(ours) & set(others))
    for count in (1, 2, len(taken)):
        for chosen in itertools.combinations(taken, count):
            forged = b"".join(others[n] if n in chosen else ours[n] for n in sorted(ours))
            try:
                found = await page(attack.acme, own, forged)
            except RPCError:
                continue
            assert attack.desk.beta not in str(found)
    await own.terminate()


def _fields(token: bytes) -> dict[int, bytes]:
    """The fields of a serialized message, each with its tag."""
    found: dict[int, bytes] = {}
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = token[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(token):
        start = position
        tag = number()
        length = number()
        if tag & 7 == 2:
            position += length
        found[tag >> 3] = token[start:position]
    return found


async def test_anothers_run_is_not_reached_under_ones_own_id(attack):
    own = await attack.desk.mailbox(attack.desk.acme, "own")
    run = (await attack.target.describe()).run_id
    handle = attack.acme.get_workflow_handle(own.id, run_id=run)
    for call in (handle.describe(), handle.terminate(), handle.signal("note", "x")):
        with pytest.raises(RPCError, match="not found"):
            await call
    with pytest.raises(RPCError, match="not found"):
        await handle.fetch_history()
    await own.terminate()


async def test_the_operators_client_is_open_outside_of_scopes_only(attack):
    operator = attack.desk.client(ALL_TENANTS)
    assert (await operator.get_workflow_handle(attack.target.id).describe()).id == attack.target.id
    with tenant_scope(attack.desk.acme):
        await refused(
            Client(operator.service_client).get_workflow_handle(attack.target.id).terminate()
        )
