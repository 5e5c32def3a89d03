"""A hostile tenant's lists, counts and page tokens on the real server."""

import itertools
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api
from temporalio.client import (
    Client,
)
from temporalio.service import RPCError

from orkestra.errors import InvalidQueryError
from tests.support.waiting import becomes

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
async def test_b01_comments_in_a_query_are_refused(attack, query, service_call, kind):
    request = kind(namespace="default", query=query.format(beta=attack.desk.beta))
    with pytest.raises(InvalidQueryError):
        await getattr(attack.service, service_call)(request)


async def test_b01_queries_cannot_list_or_count_another_tenants_rows(attack):
    beta = attack.desk.beta

    async def visible() -> int:
        return (await attack.beta.count_workflows()).count

    await becomes(visible, 1)
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


async def test_a_page_token_of_another_tenants_list_shows_no_rows(attack):
    other = await attack.desk.mailbox(attack.desk.beta, "second")

    async def visible() -> int:
        return (await attack.beta.count_workflows()).count

    await becomes(visible, 2)
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


async def test_foreign_and_forged_page_tokens_show_no_history(attack):
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
