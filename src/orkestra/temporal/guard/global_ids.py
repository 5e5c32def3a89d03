"""Requests where IDs do not say whose they name: checked, pinned to what was checked, then sent.

Another tenant's execution looks like one that does not exist. What cannot be hidden is that an ID
is taken: starting a workflow under it fails, as it must.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.enums.v1 import (
    ActivityIdConflictPolicy,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.errordetails.v1 import (
    ActivityExecutionAlreadyStartedFailure,
    WorkflowExecutionAlreadyStartedFailure,
)
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import ForbiddenOperationError
from orkestra.temporal.guard.owners import Owned, Owners

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
