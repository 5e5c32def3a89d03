"""Whose an execution is where IDs do not say it: the header of its start event, looked up.

Nothing can change a start event, and all runs of a chain (continue-as-new, retry, cron) are of one
tenant. So an answer holds for good, and is remembered by the chain's first run.

Requests where IDs do not say whose they name: checked, pinned to what was checked, then sent.

Another tenant's execution looks like one that does not exist. What cannot be hidden is that an ID
is taken: starting a workflow under it fails, as it must.
"""

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, Final, Generic, TypeAlias, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus, Payload, WorkflowExecution
from temporalio.api.enums.v1 import (
    ActivityIdConflictPolicy,
    WorkflowExecutionStatus,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.errordetails.v1 import (
    ActivityExecutionAlreadyStartedFailure,
    WorkflowExecutionAlreadyStartedFailure,
)
from temporalio.api.workflowservice.v1 import (
    DescribeActivityExecutionRequest,
    DescribeScheduleRequest,
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
)
from temporalio.service import RPCError, RPCStatusCode, WorkflowService

from orkestra.errors import ForbiddenOperationError
from orkestra.tenancy import tenant_in_payload

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_REMEMBERED: Final = 10_000
_ABSENT: Final = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT})
_RUNNING: Final = frozenset(
    {
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
    }
)


@dataclass(frozen=True, slots=True)
class Owned:
    """A run, or a standalone activity, and whose it is.

    Attributes:
        tenant: The tenant, or None where it was started for none.
        run_id: The run; empty where only its chain was looked for.
        first_run_id: The first run of its chain.
        is_running: Whether it was running when it was looked up; None where that was not asked.
    """

    tenant: str | None
    run_id: str
    first_run_id: str
    is_running: bool | None = None


class Recent(Generic[_Key, _Value]):
    """Remembers the last ones, up to a limit, for event loops in any thread."""

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._values: OrderedDict[_Key, _Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key) -> _Value | None:
        """The value, which thereby becomes the most recent one."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Remember a value in place of the one that was longest not asked for."""
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._limit:
                self._values.popitem(last=False)


class OwnerMemory:
    """What has been found out, for all clients of a program.

    Attributes:
        runs: By workflow ID and run, the first one of each chain among them.
        pages: The run that a page token of a history belongs to.
    """

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self.runs = Recent[tuple[str, str], Owned](limit)
        self.pages = Recent[tuple[str, bytes], str](limit)


class Owners:
    """Looks up whose executions of a namespace are.

    Args:
        service: Sends without a guard.
        namespace: The namespace.
        header: Name of the tenant's header and memo field.
        memory: What has been found out already.
    """

    def __init__(
        self, service: WorkflowService, *, namespace: str, header: str, memory: OwnerMemory
    ) -> None:
        self._service = service
        self._namespace = namespace
        self._header = header
        self.memory = memory

    async def of_run(self, workflow_id: str, run_id: str) -> Owned | None:
        """Whose a run is, or None where there is no such run."""
        known = self.memory.runs.get((workflow_id, run_id))
        if known is not None:
            return known
        request = GetWorkflowExecutionHistoryRequest(
            namespace=self._namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            maximum_page_size=1,
        )
        try:
            answer = await self._service.get_workflow_execution_history(request, retry=True)
        except RPCError as error:
            if error.status in _ABSENT:
                return None
            raise
        start = answer.history.events[0].workflow_execution_started_event_attributes
        tenant = self._read(start.header.fields) or self._read(start.memo.fields)
        first = start.first_execution_run_id or run_id
        return self._remember(workflow_id, Owned(tenant, run_id, first))

    async def current(self, workflow_id: str) -> Owned | None:
        """Whose the latest run of an ID is, or None where there is none."""
        request = DescribeWorkflowExecutionRequest(
            namespace=self._namespace, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        try:
            answer = await self._service.describe_workflow_execution(request, retry=True)
        except RPCError as error:
            if error.status in _ABSENT:
                return None
            raise
        info = answer.workflow_execution_info
        run_id, first = info.execution.run_id, info.first_run_id
        chain = self.memory.runs.get((workflow_id, first))
        owned = chain or await self.of_run(workflow_id, run_id)
        if owned is None:
            return None
        return replace(owned, run_id=run_id, is_running=info.status in _RUNNING)

    async def whose(self, workflow_id: str, run_id: str) -> tuple[str | None, str] | None:
        """The tenant and the run of an ID, whose latest run is meant where none is named.

        Returns:
            The tenant, None where it was started for none, and the run; None where there is no
            such workflow.
        """
        if run_id:
            owned = await self.of_run(workflow_id, run_id)
        else:
            owned = await self.current(workflow_id)
        return None if owned is None else (owned.tenant, owned.run_id)

    async def of_chain(self, workflow_id: str, first_run_id: str) -> Owned | None:
        """Whose the runs that follow a first one are, or None where there is no such chain."""
        owned = await self.of_run(workflow_id, first_run_id)
        if owned is None:  # the first run may have been deleted before the later ones
            owned = await self.current(workflow_id)
        if owned is None or owned.first_run_id != first_run_id:
            return None
        return replace(owned, run_id="")

    async def of_activity(self, activity_id: str, run_id: str) -> Owned | None:
        """Whose a standalone activity is, or None where there is none."""
        known = self.memory.runs.get((_activity_key(activity_id), run_id)) if run_id else None
        if known is not None:
            return known
        request = DescribeActivityExecutionRequest(
            namespace=self._namespace, activity_id=activity_id, run_id=run_id
        )
        try:
            answer = await self._service.describe_activity_execution(request, retry=True)
        except RPCError as error:
            if error.status in _ABSENT:
                return None
            raise
        tenant = self._read(answer.info.header.fields)
        owned = Owned(tenant, answer.info.run_id, answer.info.run_id)
        self._remember(_activity_key(activity_id), owned)
        return replace(owned, is_running=not answer.info.HasField("close_time"))

    async def of_schedule(self, schedule_id: str) -> str | None:
        """Whose a schedule is, by what it starts; None where there is none, or it is nobody's."""
        request = DescribeScheduleRequest(namespace=self._namespace, schedule_id=schedule_id)
        try:
            answer = await self._service.describe_schedule(request, retry=True)
        except RPCError as error:
            if error.status in _ABSENT:
                return None
            raise
        action = answer.schedule.action.start_workflow
        return self._read(action.header.fields) or self._read(action.memo.fields)

    def _remember(self, workflow_id: str, owned: Owned) -> Owned:
        if owned.tenant is None:  # a later run of the chain may be given a tenant
            return owned
        self.memory.runs.put((workflow_id, owned.run_id), owned)
        self.memory.runs.put((workflow_id, owned.first_run_id), owned)
        return owned

    def _read(self, fields: Mapping[str, Payload]) -> str | None:
        payload = fields.get(self._header)
        if payload is None:
            return None
        return tenant_in_payload(payload.metadata, payload.data)


def _activity_key(activity_id: str) -> str:
    """Apart from every workflow ID, which may not have a NUL."""
    return f"\0{activity_id}"


Send: TypeAlias = Callable[[Message], Awaitable[Any]]
"""Sends the request of a call."""

_Handler: TypeAlias = Callable[["GlobalIds", str, Any, Send], Awaitable[Any]]


class GlobalIds:
    """Sends the requests of one tenant.

    Args:
        owners: Looks up whose an execution is.
        tenant: The tenant.
    """

    def __init__(self, owners: Owners, tenant: str) -> None:
        self.owners = owners
        self.tenant = tenant

    async def send(self, rpc: str, request: Message, send: Send) -> Any:
        """Send a request if what it names is the tenant's.

        Args:
            rpc: Name of the RPC.
            request: The request; it is changed.
            send: Sends it.

        Raises:
            RPCError: Not found, where what it names is another's or does not exist; already
                exists, where a start would get another's.
            ForbiddenOperationError: It might end another tenant's workflow.
        """
        return await HANDLERS[rpc](self, rpc, request, send)

    def is_own(self, owned: Owned | None) -> bool:
        """Whether something was found and is the tenant's."""
        return owned is not None and owned.tenant == self.tenant


@dataclass(frozen=True)
class _Execution:
    """A workflow that a request names.

    Attributes:
        within: Path of the message that holds the ID and the run; empty for the request itself.
        by_chain: Whether the request can be pinned to a chain by its first run.
    """

    within: str = ""
    by_chain: bool = False

    async def __call__(self, ids: GlobalIds, rpc: str, request: Any, send: Send) -> Any:
        """Check and pin; where it was gone by the time it was reached, do so once more."""
        holder: Any = attrgetter(self.within)(request) if self.within else request
        is_free = not holder.run_id and not (self.by_chain and request.first_execution_run_id)
        try:
            return await self._attempt(ids, request, holder, send)
        except RPCError as error:
            if not is_free or error.status != RPCStatusCode.NOT_FOUND:
                raise
        holder.run_id = ""
        if self.by_chain:
            request.first_execution_run_id = ""
        return await self._attempt(ids, request, holder, send)

    async def _attempt(self, ids: GlobalIds, request: Any, holder: Any, send: Send) -> Any:
        owned = await self._find(ids.owners, request, holder)
        if owned is None or not ids.is_own(owned):
            raise _not_found("workflow", holder.workflow_id)
        if self.by_chain:
            request.first_execution_run_id = owned.first_run_id
        else:
            holder.run_id = owned.run_id
        return await send(request)

    async def _find(self, owners: Owners, request: Any, holder: Any) -> Owned | None:
        if holder.run_id:
            return await owners.of_run(holder.workflow_id, holder.run_id)
        if self.by_chain and request.first_execution_run_id:
            return await owners.of_chain(holder.workflow_id, request.first_execution_run_id)
        return await owners.current(holder.workflow_id)


async def _history(ids: GlobalIds, rpc: str, request: Any, send: Send) -> Any:
    """The run of the first page is the run of the others, although tokens do not show it."""
    execution, pages = request.execution, ids.owners.memory.pages
    if request.next_page_token and not execution.run_id:
        key = (execution.workflow_id, request.next_page_token)
        execution.run_id = pages.get(key) or ""
    response = await _Execution("execution")(ids, rpc, request, send)
    if response.next_page_token:
        pages.put((execution.workflow_id, response.next_page_token), execution.run_id)
    return response


async def _activity(ids: GlobalIds, _rpc: str, request: Any, send: Send) -> Any:
    """A standalone activity."""
    owned = await ids.owners.of_activity(request.activity_id, request.run_id)
    if owned is None or not ids.is_own(owned):
        raise _not_found("activity", request.activity_id)
    request.run_id = owned.run_id
    return await send(request)


async def _activity_of_either(ids: GlobalIds, rpc: str, request: Any, send: Send) -> Any:
    """An activity of a workflow, or a standalone one."""
    handler: _Handler = _Execution() if request.workflow_id else _activity
    return await handler(ids, rpc, request, send)


async def _schedule(ids: GlobalIds, _rpc: str, request: Any, send: Send) -> Any:
    """A schedule, which has no run to be pinned to."""
    if await ids.owners.of_schedule(request.schedule_id) != ids.tenant:
        raise _not_found("schedule", request.schedule_id)
    return await send(request)


async def _create_schedule(_ids: GlobalIds, rpc: str, request: Any, send: Send) -> Any:
    _refuse_terminating(rpc, request.schedule.action.start_workflow)
    return await send(request)


async def _update_schedule(ids: GlobalIds, rpc: str, request: Any, send: Send) -> Any:
    _refuse_terminating(rpc, request.schedule.action.start_workflow)
    return await _schedule(ids, rpc, request, send)


async def _start(
    ids: GlobalIds, rpc: str, request: Any, send: Send, *, attaches: bool = False
) -> Any:
    """A start; where it may get a workflow that runs already, that must be the tenant's."""
    _refuse_terminating(rpc, request)
    use_existing = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    attaches = attaches or request.workflow_id_conflict_policy == use_existing
    call = partial(send, request)
    return (
        await _attach(ids, request.workflow_id, call)
        if attaches
        else await _new(ids, request, call)
    )


async def _start_and_update(ids: GlobalIds, rpc: str, request: Any, send: Send) -> Any:
    """An update with start: the operations are a start and an update of the same ID."""
    starts = [each.start_workflow for each in request.operations if each.HasField("start_workflow")]
    if len(starts) != 1:
        msg = f"{rpc} is refused to tenant {ids.tenant!r}: it must have one start"
        raise ForbiddenOperationError(msg)
    _refuse_terminating(rpc, starts[0])
    for each in request.operations:
        if each.HasField("update_workflow"):
            execution = each.update_workflow.workflow_execution
            execution.workflow_id = starts[0].workflow_id
    return await _attach(ids, starts[0].workflow_id, partial(send, request))


async def _attach(ids: GlobalIds, workflow_id: str, call: Callable[[], Awaitable[Any]]) -> Any:
    existing = await ids.owners.current(workflow_id)
    if existing is not None and existing.is_running and not ids.is_own(existing):
        raise _taken(workflow_id, WorkflowExecutionAlreadyStartedFailure())
    response = await call()
    started = response
    if hasattr(response, "responses"):
        started = response.responses[0].start_workflow
    # In between another tenant may have started one: whose it is, its own worker sees, too.
    if not started.started and not ids.is_own(await ids.owners.of_run(workflow_id, started.run_id)):
        raise _taken(workflow_id, WorkflowExecutionAlreadyStartedFailure())
    return response


async def _new(ids: GlobalIds, request: Any, call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise
        if ids.is_own(await ids.owners.current(request.workflow_id)):
            raise
        raise _taken(request.workflow_id, WorkflowExecutionAlreadyStartedFailure()) from None


async def _start_activity(ids: GlobalIds, _rpc: str, request: Any, send: Send) -> Any:
    use_existing = ActivityIdConflictPolicy.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING
    attaches = request.id_conflict_policy == use_existing
    if attaches:
        existing = await ids.owners.of_activity(request.activity_id, "")
        if existing is not None and existing.is_running and not ids.is_own(existing):
            raise _taken(request.activity_id, ActivityExecutionAlreadyStartedFailure())
    try:
        response = await send(request)
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS or ids.is_own(
            await ids.owners.of_activity(request.activity_id, "")
        ):
            raise
        raise _taken(request.activity_id, ActivityExecutionAlreadyStartedFailure()) from None
    if attaches and not response.started:
        owned = await ids.owners.of_activity(request.activity_id, response.run_id)
        if not ids.is_own(owned):
            raise _taken(request.activity_id, ActivityExecutionAlreadyStartedFailure())
    return response


async def _free(_ids: GlobalIds, _rpc: str, request: Any, send: Send) -> Any:
    """It names no execution, or its query and rows are held inside the tenant."""
    return await send(request)


def _refuse_terminating(rpc: str, start: Any) -> None:
    reuse = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    conflict = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    is_terminating = start.workflow_id_reuse_policy == reuse
    if is_terminating or getattr(start, "workflow_id_conflict_policy", None) == conflict:
        msg = (
            f"{rpc} would terminate whatever runs under ID {start.workflow_id!r}, which may be"
            " another tenant's: terminate it yourself, then start, or use scoped IDs"
        )
        raise ForbiddenOperationError(msg)


def _not_found(kind: str, name: str) -> RPCError:
    return RPCError(f"{kind} not found for ID: {name}", RPCStatusCode.NOT_FOUND, b"")


def _taken(name: str, details: Message) -> RPCError:
    """What the server says of an ID in use, without the run that uses it."""
    message = f"ID is in use: {name}"
    packed = AnyMessage()
    packed.Pack(details)
    status = GrpcStatus(code=RPCStatusCode.ALREADY_EXISTS.value, message=message, details=[packed])
    return RPCError(message, RPCStatusCode.ALREADY_EXISTS, status.SerializeToString())


HANDLERS: Final[Mapping[str, _Handler]] = {
    "count_activity_executions": _free,
    "count_schedules": _free,
    "count_workflow_executions": _free,
    "create_schedule": _create_schedule,
    "delete_activity_execution": _activity,
    "delete_schedule": _schedule,
    "delete_workflow_execution": _Execution("workflow_execution"),
    "describe_activity_execution": _activity,
    "describe_namespace": _free,
    "describe_schedule": _schedule,
    "describe_workflow_execution": _Execution("execution"),
    "execute_multi_operation": _start_and_update,
    "get_cluster_info": _free,
    "get_system_info": _free,
    "get_workflow_execution_history": _history,
    "get_workflow_execution_history_reverse": _history,
    "list_activity_executions": _free,
    "list_schedule_matching_times": _schedule,
    "list_schedules": _free,
    "list_workflow_executions": _free,
    "patch_schedule": _schedule,
    "pause_activity": _Execution("execution"),
    "pause_activity_execution": _activity_of_either,
    "pause_workflow_execution": _Execution(),
    "poll_activity_execution": _activity,
    "poll_workflow_execution_update": _Execution("update_ref.workflow_execution"),
    "query_workflow": _Execution("execution"),
    "record_activity_task_heartbeat_by_id": _activity_of_either,
    "request_cancel_activity_execution": _activity,
    "request_cancel_workflow_execution": _Execution("workflow_execution", by_chain=True),
    "reset_activity": _Execution("execution"),
    "reset_activity_execution": _activity_of_either,
    "reset_workflow_execution": _Execution("workflow_execution"),
    "respond_activity_task_canceled_by_id": _activity_of_either,
    "respond_activity_task_completed_by_id": _activity_of_either,
    "respond_activity_task_failed_by_id": _activity_of_either,
    "signal_with_start_workflow_execution": partial(_start, attaches=True),
    "signal_workflow_execution": _Execution("workflow_execution"),
    "start_activity_execution": _start_activity,
    "start_workflow_execution": _start,
    "terminate_activity_execution": _activity,
    "terminate_workflow_execution": _Execution("workflow_execution", by_chain=True),
    "unpause_activity": _Execution("execution"),
    "unpause_activity_execution": _activity_of_either,
    "unpause_workflow_execution": _Execution(),
    "update_activity_execution_options": _activity_of_either,
    "update_activity_options": _Execution("execution"),
    "update_schedule": _update_schedule,
    "update_workflow_execution": _Execution("workflow_execution", by_chain=True),
}
"""How each RPC that a tenant may call is sent; a test holds it to the guard's table."""
