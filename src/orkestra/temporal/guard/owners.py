"""Whose an execution is where IDs do not say it: the header of its start event, looked up.

Nothing can change a start event, and all runs of a chain (continue-as-new, retry, cron) are of one
tenant. So an answer holds for good, and is remembered by the chain's first run.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import (
    DescribeActivityExecutionRequest,
    DescribeScheduleRequest,
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
)
from temporalio.service import RPCError, RPCStatusCode, WorkflowService

from orkestra.tenancy import is_tenant_id

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
        if payload is None or payload.metadata.get("encoding") != b"json/plain":
            return None
        try:
            tenant = json.loads(payload.data)
        except ValueError:
            return None
        return tenant if is_tenant_id(tenant) else None


def _activity_key(activity_id: str) -> str:
    """Apart from every workflow ID, which may not have a NUL."""
    return f"\0{activity_id}"
