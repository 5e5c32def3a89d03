"""Owners of executions whose IDs do not name a tenant (`workflow_ids = "global"`).

Ownership is read from the header of the start event. Nothing can change a start event (B10), and
all runs of a chain (continue-as-new, retry, cron) belong to one tenant, so an answer holds for good
and is remembered by the chain's first run.

Each request is checked, pinned to the run that was checked, then sent. Another tenant's execution
looks like one that does not exist. Only one thing cannot be hidden: an ID is taken, so starting a
workflow under it must fail (B9).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

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

from orkestra.caches import LruCache
from orkestra.errors import ForbiddenOperationError
from orkestra.tenancy import tenant_in_payload

_Response = TypeVar("_Response")

_MAX_CACHED: Final = 10_000
_ABSENT: Final = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT})
_RUNNING: Final = frozenset(
    {
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
    }
)


@dataclass(slots=True)
class GlobalIdCall:
    """A tenant's call whose request names executions by global IDs.

    Attributes:
        lookup: Finds the owner of an execution.
        tenant: The tenant.
        rpc: Name of the RPC, for errors.
        request: The request, which pins change.
        send: Sends the request.
    """

    lookup: "OwnershipLookup"
    tenant: str
    rpc: str
    request: Any
    send: Callable[[], Awaitable[Any]]

    def is_own(self, found: "Ownership | None") -> bool:
        """True if something was found and is the tenant's."""
        return found is not None and found.tenant == self.tenant


Pin: TypeAlias = Callable[[GlobalIdCall], Awaitable[Any]]
"""Sends a call if its request names the tenant's executions only.

Raises `RPCError`: not found, where an execution is another's or does not exist; already exists,
where a start would return another's. Raises `ForbiddenOperationError` where a start could end
another tenant's workflow.
"""


@dataclass(frozen=True)
class PinExecution:
    """Pin to the run of a workflow that the request names.

    Attributes:
        path: Path of the message that holds ID and run; empty for the request itself.
        by_chain: Whether the request can be pinned to a chain by its first run.
    """

    path: str = ""
    by_chain: bool = False

    async def __call__(self, call: GlobalIdCall) -> Any:
        """Check, pin and send; once more where the run was gone by the time it was reached."""
        request = call.request
        execution: Any = attrgetter(self.path)(request) if self.path else request
        is_free = not execution.run_id and not (self.by_chain and request.first_execution_run_id)
        try:
            return await self._attempt(call, execution)
        except RPCError as error:
            if not is_free or error.status != RPCStatusCode.NOT_FOUND:
                raise
        # The caller named no run, and the pinned one was deleted or continued as new: pin again.
        execution.run_id = ""
        if self.by_chain:
            request.first_execution_run_id = ""
        return await self._attempt(call, execution)

    async def _attempt(self, call: GlobalIdCall, execution: Any) -> Any:
        found = await self._find(call, execution)
        if found is None or not call.is_own(found):
            raise _not_found("workflow", execution.workflow_id)
        if self.by_chain:
            call.request.first_execution_run_id = found.first_run_id
        else:
            execution.run_id = found.run_id
        return await call.send()

    async def _find(self, call: GlobalIdCall, execution: Any) -> "Ownership | None":
        if execution.run_id:
            return await call.lookup.of_run(execution.workflow_id, execution.run_id)
        if self.by_chain and (first := call.request.first_execution_run_id):
            return await call.lookup.of_chain(execution.workflow_id, first)
        return await call.lookup.current(execution.workflow_id)


async def pin_history(call: GlobalIdCall) -> Any:
    """Pin the later pages of a history to the run of the first, which tokens do not show."""
    request, pages = call.request, call.lookup.cache.pages
    execution = request.execution
    if request.next_page_token and not execution.run_id:
        execution.run_id = pages.get((execution.workflow_id, request.next_page_token)) or ""
    response = await PinExecution("execution")(call)
    if response.next_page_token:
        pages.put((execution.workflow_id, response.next_page_token), execution.run_id)
    return response


async def pin_activity(call: GlobalIdCall) -> Any:
    """Pin to the run of a standalone activity."""
    request = call.request
    found = await call.lookup.of_activity(request.activity_id, request.run_id)
    if found is None or not call.is_own(found):
        raise _not_found("activity", request.activity_id)
    request.run_id = found.run_id
    return await call.send()


async def pin_any_activity(call: GlobalIdCall) -> Any:
    """Pin to the run of an activity's workflow, or of a standalone activity."""
    return await (PinExecution()(call) if call.request.workflow_id else pin_activity(call))


async def check_schedule(call: GlobalIdCall) -> Any:
    """Check the owner of a schedule, which has no run to be pinned to."""
    if await call.lookup.of_schedule(call.request.schedule_id) != call.tenant:
        raise _not_found("schedule", call.request.schedule_id)
    return await call.send()


async def check_new_schedule(call: GlobalIdCall) -> Any:
    """Check what a new schedule starts."""
    _refuse_terminating(call.rpc, call.request.schedule.action.start_workflow)
    return await call.send()


async def check_schedule_update(call: GlobalIdCall) -> Any:
    """Check the owner of a schedule, and what it will start."""
    _refuse_terminating(call.rpc, call.request.schedule.action.start_workflow)
    return await check_schedule(call)


async def check_start(call: GlobalIdCall) -> Any:
    """Check a start; if it may return a running workflow, that must be the tenant's."""
    request = call.request
    use_existing = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    if request.workflow_id_conflict_policy == use_existing:
        return await check_signal_with_start(call)
    _refuse_terminating(call.rpc, request)
    try:
        return await call.send()
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise
        # The server's error names the run that has the ID: only its owner may see it (B9).
        if call.is_own(await call.lookup.current(request.workflow_id)):
            raise
        raise _taken(request.workflow_id, WorkflowExecutionAlreadyStartedFailure()) from None


async def check_signal_with_start(call: GlobalIdCall) -> Any:
    """Check a start that attaches to the workflow that runs under its ID."""
    _refuse_terminating(call.rpc, call.request)
    return await _attach(call, call.request.workflow_id)


async def check_update_with_start(call: GlobalIdCall) -> Any:
    """Check an update with start: the operations are a start and an update of the same ID."""
    operations = call.request.operations
    starts = [each.start_workflow for each in operations if each.HasField("start_workflow")]
    if len(starts) != 1:
        msg = f"{call.rpc} is refused to tenant {call.tenant!r}: it must have one start"
        raise ForbiddenOperationError(msg)
    _refuse_terminating(call.rpc, starts[0])
    for each in operations:
        if each.HasField("update_workflow"):
            # Both operations have one ID: the one that is checked.
            execution = each.update_workflow.workflow_execution
            execution.workflow_id = starts[0].workflow_id
    return await _attach(call, starts[0].workflow_id)


async def _attach(call: GlobalIdCall, workflow_id: str) -> Any:
    existing = await call.lookup.current(workflow_id)
    # A closed workflow of another tenant does not count: its ID is free again.
    if existing is not None and existing.is_running and not call.is_own(existing):
        raise _taken(workflow_id, WorkflowExecutionAlreadyStartedFailure())
    response = await call.send()
    started = response
    if hasattr(response, "responses"):
        started = response.responses[0].start_workflow
    # Another tenant may have started one in between: its own worker sees the owner, too.
    if not started.started:
        found = await call.lookup.of_run(workflow_id, started.run_id)
        if not call.is_own(found):
            raise _taken(workflow_id, WorkflowExecutionAlreadyStartedFailure())
    return response


async def check_activity_start(call: GlobalIdCall) -> Any:
    """Check the start of a standalone activity, which may return a running one."""
    request, lookup = call.request, call.lookup
    taken = _taken(request.activity_id, ActivityExecutionAlreadyStartedFailure())
    use_existing = ActivityIdConflictPolicy.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING
    attaches = request.id_conflict_policy == use_existing
    if attaches:
        existing = await lookup.of_activity(request.activity_id, "")
        if existing is not None and existing.is_running and not call.is_own(existing):
            raise taken
    try:
        response = await call.send()
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise
        if call.is_own(await lookup.of_activity(request.activity_id, "")):
            raise
        raise taken from None
    if attaches and not response.started:
        found = await lookup.of_activity(request.activity_id, response.run_id)
        if not call.is_own(found):
            raise taken
    return response


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
    """Make the server's error for an ID in use, without the run that uses it."""
    message = f"ID is in use: {name}"
    packed = AnyMessage()
    packed.Pack(details)
    status = GrpcStatus(code=RPCStatusCode.ALREADY_EXISTS.value, message=message, details=[packed])
    return RPCError(message, RPCStatusCode.ALREADY_EXISTS, status.SerializeToString())


@dataclass(frozen=True, slots=True)
class Ownership:
    """Owner of a run, or of a standalone activity.

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


class OwnershipCache:
    """Owners found so far, for all clients of a program.

    Attributes:
        runs: By workflow ID and run, the first one of each chain included.
        pages: The run that a page token of a history belongs to.
    """

    def __init__(self, limit: int = _MAX_CACHED) -> None:
        self.runs = LruCache[tuple[str, str], Ownership](limit)
        self.pages = LruCache[tuple[str, bytes], str](limit)


class OwnershipLookup:
    """Finds the owners of executions in a namespace.

    Args:
        service: Sends without a guard.
        namespace: The namespace.
        header: Name of the tenant's header and memo field.
        cache: Owners found so far.
    """

    def __init__(
        self, service: WorkflowService, *, namespace: str, header: str, cache: OwnershipCache
    ) -> None:
        self._service = service
        self._namespace = namespace
        self._header = header
        self.cache = cache

    async def of_run(self, workflow_id: str, run_id: str) -> Ownership | None:
        """Find the owner of a run; None where there is no such run."""
        known = self.cache.runs.get((workflow_id, run_id))
        if known is not None:
            return known
        request = GetWorkflowExecutionHistoryRequest(
            namespace=self._namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            maximum_page_size=1,
        )
        history = await _if_found(self._service.get_workflow_execution_history(request, retry=True))
        if history is None:
            return None
        start = history.history.events[0].workflow_execution_started_event_attributes
        tenant = self._read(start.header.fields) or self._read(start.memo.fields)
        first = start.first_execution_run_id or run_id
        return self._remember(workflow_id, Ownership(tenant, run_id, first))

    async def current(self, workflow_id: str) -> Ownership | None:
        """Find the owner of the latest run of an ID; None where there is none."""
        request = DescribeWorkflowExecutionRequest(
            namespace=self._namespace, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        described = await _if_found(self._service.describe_workflow_execution(request, retry=True))
        if described is None:
            return None
        info = described.workflow_execution_info
        run_id = info.execution.run_id
        # Owners are remembered by a chain's first run, so its later runs need no look-up.
        chain = self.cache.runs.get((workflow_id, info.first_run_id))
        found = chain or await self.of_run(workflow_id, run_id)
        if found is None:
            return None
        return replace(found, run_id=run_id, is_running=info.status in _RUNNING)

    async def of_execution(self, workflow_id: str, run_id: str) -> Ownership | None:
        """Find the owner of a run, or without one of the ID's latest run; None where none is."""
        if run_id:
            return await self.of_run(workflow_id, run_id)
        return await self.current(workflow_id)

    async def of_chain(self, workflow_id: str, first_run_id: str) -> Ownership | None:
        """Find the owner of the runs that follow a first one; None where there are none."""
        found = await self.of_run(workflow_id, first_run_id)
        if found is None:  # the first run may have been deleted before the later ones
            found = await self.current(workflow_id)
        if found is None or found.first_run_id != first_run_id:
            return None
        return replace(found, run_id="")

    async def of_activity(self, activity_id: str, run_id: str) -> Ownership | None:
        """Find the owner of a standalone activity; None where there is none."""
        key = f"\0{activity_id}"  # no workflow ID has a NUL
        known = self.cache.runs.get((key, run_id)) if run_id else None
        if known is not None:
            return known
        request = DescribeActivityExecutionRequest(
            namespace=self._namespace, activity_id=activity_id, run_id=run_id
        )
        described = await _if_found(self._service.describe_activity_execution(request, retry=True))
        if described is None:
            return None
        info, tenant = described.info, self._read(described.info.header.fields)
        found = self._remember(key, Ownership(tenant, info.run_id, info.run_id))
        return replace(found, is_running=not info.HasField("close_time"))

    async def of_schedule(self, schedule_id: str) -> str | None:
        """Find the tenant of what a schedule starts; None where there is neither."""
        request = DescribeScheduleRequest(namespace=self._namespace, schedule_id=schedule_id)
        described = await _if_found(self._service.describe_schedule(request, retry=True))
        if described is None:
            return None
        action = described.schedule.action.start_workflow
        return self._read(action.header.fields) or self._read(action.memo.fields)

    def _remember(self, workflow_id: str, found: Ownership) -> Ownership:
        if found.tenant is not None:  # a later run of the chain may be given a tenant
            self.cache.runs.put((workflow_id, found.run_id), found)
            self.cache.runs.put((workflow_id, found.first_run_id), found)
        return found

    def _read(self, fields: Mapping[str, Payload]) -> str | None:
        payload = fields.get(self._header)
        if payload is None:
            return None
        return tenant_in_payload(payload.metadata, payload.data)


async def _if_found(call: Awaitable[_Response]) -> _Response | None:
    try:
        return await call
    except RPCError as error:
        if error.status in _ABSENT:
            return None
        raise
