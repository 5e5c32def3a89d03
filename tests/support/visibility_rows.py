"""Rows of two tenants in a namespace of their own, with list and count calls for each kind."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    CountActivityExecutionsRequest,
    CountSchedulesRequest,
    CountWorkflowExecutionsRequest,
    ListActivityExecutionsRequest,
    ListSchedulesRequest,
    ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from orkestra.temporal.guard.query import IdField, scope_query
from tests.support.waiting import PATIENTLY, becomes

ACME, BETA = "acme", "beta"
NAMES = (
    *("one", "it's", "two '' x", "#1", "http://x", "a -- b", "/* x */", "') OR (", "''", 'a"b'),
    *("a;b", "a?b", "%", "_", "Ünï", "beta:one"),
)
"""Names of each tenant's rows, also used as task queue and note of a row."""

UNMATCHED = ("''", 'a"b')
"""Names that no value matches: the server trims quotes off a value's ends and escapes a double one
for MySQL."""

CLOSED = ("one", "it's")
"""Names of the workflows that have ended."""

PAUSED = ("one", "%")
"""Names of the schedules that are paused."""

TENANT = SearchAttributeKey.for_keyword("tenantId")
NOTE = SearchAttributeKey.for_keyword("order-note")

_PAGE = 1000


@dataclass(frozen=True)
class Kind:
    """One kind of rows; `rows` and `total` answer a query as the server gets it."""

    id_field: IdField
    rows: Callable[[Client, str], Awaitable[list[str]]]
    count: Callable[[Client, str], Awaitable[object]]

    def scoped(self, query: str, *, tenant: str = ACME) -> str:
        return scope_query(query, tenant=tenant, attribute=TENANT.name, id_field=self.id_field)

    async def total(self, client: Client, query: str) -> int:
        return (await self.count(client, query)).count

    def __repr__(self) -> str:
        return self.id_field


async def make_rows(client: Client) -> Client:
    """Fill a new namespace of the client's server; the client of that namespace."""
    register = RegisterNamespaceRequest(
        namespace="visibility", workflow_execution_retention_period=Duration(seconds=86_400)
    )
    await client.workflow_service.register_namespace(register)
    own = Client(client.service_client, namespace=register.namespace)
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    attributes = AddSearchAttributesRequest(
        namespace=own.namespace, search_attributes={TENANT.name: keyword, NOTE.name: keyword}
    )
    await own.operator_service.add_search_attributes(attributes)
    rows = [(tenant, name) for tenant in (ACME, BETA) for name in NAMES]
    await asyncio.gather(*(_make(own, tenant, name) for tenant, name in rows))
    for kind in KINDS:
        await becomes(lambda kind=kind: kind.total(own, ""), len(rows))
    closed, paused = "ExecutionStatus = 'Terminated'", "TemporalSchedulePaused = true"
    await becomes(lambda: WORKFLOWS.total(own, closed), 2 * len(CLOSED))
    await becomes(lambda: SCHEDULES.total(own, paused), 2 * len(PAUSED))
    return own


async def answer(asked: Awaitable[list[str]]) -> list[str] | None:
    """The server's rows; None where it refuses the query as invalid."""
    try:
        return await asked
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT:
            raise
        return None


async def _make(client: Client, tenant: str, name: str) -> None:
    row = f"{tenant}:{name}"
    pairs = [SearchAttributePair(TENANT, tenant), SearchAttributePair(NOTE, name)]
    shown = TypedSearchAttributes(pairs)
    workflow = await client.start_workflow(
        "nobody", id=row, task_queue=name, search_attributes=shown
    )
    if name in CLOSED:
        await workflow.terminate()
    hour = timedelta(hours=1)
    await client.start_activity(
        "nobody", id=row, task_queue=name, start_to_close_timeout=hour, search_attributes=shown
    )
    action = ScheduleActionStartWorkflow("nobody", id=row, task_queue=name)
    state = ScheduleState(paused=name in PAUSED)
    schedule = Schedule(action=action, spec=ScheduleSpec(), state=state)
    await client.create_schedule(row, schedule, search_attributes=shown)


async def _list_workflows(client: Client, query: str) -> list[str]:
    request = ListWorkflowExecutionsRequest(
        namespace=client.namespace, query=query, page_size=_PAGE
    )
    page = await client.workflow_service.list_workflow_executions(request, timeout=PATIENTLY)
    return sorted(row.execution.workflow_id for row in page.executions)


async def _count_workflows(client: Client, query: str) -> object:
    request = CountWorkflowExecutionsRequest(namespace=client.namespace, query=query)
    return await client.workflow_service.count_workflow_executions(request, timeout=PATIENTLY)


async def _list_schedules(client: Client, query: str) -> list[str]:
    request = ListSchedulesRequest(namespace=client.namespace, query=query, maximum_page_size=_PAGE)
    page = await client.workflow_service.list_schedules(request, timeout=PATIENTLY)
    return sorted(row.schedule_id for row in page.schedules)


async def _count_schedules(client: Client, query: str) -> object:
    request = CountSchedulesRequest(namespace=client.namespace, query=query)
    return await client.workflow_service.count_schedules(request, timeout=PATIENTLY)


async def _list_activities(client: Client, query: str) -> list[str]:
    request = ListActivityExecutionsRequest(
        namespace=client.namespace, query=query, page_size=_PAGE
    )
    page = await client.workflow_service.list_activity_executions(request, timeout=PATIENTLY)
    return sorted(row.activity_id for row in page.executions)


async def _count_activities(client: Client, query: str) -> object:
    request = CountActivityExecutionsRequest(namespace=client.namespace, query=query)
    return await client.workflow_service.count_activity_executions(request, timeout=PATIENTLY)


WORKFLOWS = Kind("WorkflowId", _list_workflows, _count_workflows)
SCHEDULES = Kind("ScheduleId", _list_schedules, _count_schedules)
ACTIVITIES = Kind("ActivityId", _list_activities, _count_activities)
KINDS = (WORKFLOWS, SCHEDULES, ACTIVITIES)
