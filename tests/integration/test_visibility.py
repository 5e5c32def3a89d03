"""Scoped lists and counts on the real server: what a tenant's queries return and count.

The rows of two tenants stand side by side, with names full of quotes and comment openers. Random
queries are asked twice: the truth is what one returns alone, less the rows of the other tenant.
"""

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import InvalidQueryError
from orkestra.temporal.guard.query import MAX_DEPTH, MAX_QUERY_LENGTH, is_own_row
from tests.support.visibility_queries import (
    Attribute,
    conditions,
    hostile_queries,
    hostile_values,
    quoted,
)
from tests.support.visibility_rows import (
    ACME,
    ACTIVITIES,
    BETA,
    CLOSED,
    KINDS,
    NAMES,
    NOTE,
    SCHEDULES,
    TENANT,
    UNMATCHED,
    WORKFLOWS,
    answer,
    make_rows,
)
from tests.support.waiting import becomes

FRAGMENTS = (
    *(f"tenantId = '{BETA}'", f") OR (tenantId = '{BETA}'", f"' OR tenantId = '{BETA}", BETA),
    *(f"WorkflowId STARTS_WITH '{BETA}:'", f"ScheduleId IN ('{BETA}:one')", f"{BETA}:"),
)

ids = st.one_of(
    st.builds("{}:{}".format, st.sampled_from([ACME, BETA]), st.sampled_from(NAMES)),
    st.sampled_from([f"{ACME}:", f"{BETA}:", ACME, BETA, ""]),
    hostile_values(*FRAGMENTS),
)
names = st.sampled_from(NAMES) | hostile_values(*FRAGMENTS)
instants = quoted(st.sampled_from(["2020-01-01T00:00:00Z", "2099-12-31T23:59:59.5+02:00"]))

everywhere = (
    Attribute.keyword(TENANT.name, st.sampled_from([ACME, BETA, ACME[:2], ""])),
    Attribute.keyword(NOTE.name, names),
)
running = (
    Attribute.keyword("TaskQueue", names),
    Attribute("StartTime", instants, ranges=True),
    Attribute("ExecutionStatus", quoted(st.sampled_from(["Running", "Terminated"]))),
)
workflows = (
    *(*everywhere, *running, Attribute.keyword("WorkflowId", ids)),
    Attribute("HistoryLength", st.sampled_from(["0", "2", "-1", "+3", "1.5"]), ranges=True),
)
schedules = (
    *(*everywhere, Attribute.keyword("ScheduleId", ids)),
    Attribute("TemporalSchedulePaused", st.sampled_from(["true", "FALSE"])),
)
activities = (*everywhere, *running, Attribute.keyword("ActivityId", ids))

searching = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
async def client(raw_client: Client) -> Client:
    """A client of a namespace with the same rows for both tenants."""
    return await make_rows(raw_client)


def acme(*names):
    return sorted(f"{ACME}:{name}" for name in names)


async def returns_own_rows_only(client, kind, query):
    """Ask a query alone and scoped; the two must agree about the tenant's rows."""
    alone = await answer(kind.rows(client, query))
    scoped = kind.scoped(query)
    if alone is None:
        event("refused alone")
        assert await answer(kind.rows(client, scoped)) is None
        return
    expected = [row for row in alone if is_own_row(ACME, row)]
    event("own rows" if expected else "no own rows")
    assert await kind.rows(client, scoped) == expected
    assert await kind.total(client, scoped) == len(expected)


async def never_reaches_the_other_tenant(client, kind, query):
    """Ask a hostile query, if it is not refused, and look at every row."""
    try:
        scoped = kind.scoped(query)
    except InvalidQueryError:
        event("refused by the grammar")
        return
    rows = await answer(kind.rows(client, scoped))
    event("refused by the server" if rows is None else "answered")
    if rows is not None:
        assert all(is_own_row(ACME, row) for row in rows)
        assert await kind.total(client, scoped) == len(rows)


@searching
@given(conditions(*workflows))
async def test_any_workflow_query_returns_and_counts_what_it_does_alone_less_foreign_rows(
    client, query
):
    await returns_own_rows_only(client, WORKFLOWS, query)


@searching
@given(conditions(*schedules))
async def test_any_schedule_query_returns_and_counts_what_it_does_alone_less_foreign_rows(
    client, query
):
    await returns_own_rows_only(client, SCHEDULES, query)


@searching
@given(conditions(*activities))
async def test_any_activity_query_returns_and_counts_what_it_does_alone_less_foreign_rows(
    client, query
):
    await returns_own_rows_only(client, ACTIVITIES, query)


@searching
@given(hostile_queries(*workflows, fragments=FRAGMENTS))
async def test_b01_no_hostile_fragment_in_a_workflow_query_reaches_another_tenant(client, query):
    await never_reaches_the_other_tenant(client, WORKFLOWS, query)


@searching
@given(hostile_queries(*schedules, fragments=FRAGMENTS))
async def test_b01_no_hostile_fragment_in_a_schedule_query_reaches_another_tenant(client, query):
    await never_reaches_the_other_tenant(client, SCHEDULES, query)


@searching
@given(hostile_queries(*activities, fragments=FRAGMENTS))
async def test_b01_no_hostile_fragment_in_an_activity_query_reaches_another_tenant(client, query):
    await never_reaches_the_other_tenant(client, ACTIVITIES, query)


@pytest.mark.parametrize(
    "attack",
    [
        "tenantId='x' /* ' */ ) OR (tenantId='beta' /* ' */",
        "tenantId='x' -- ' \n ) OR (tenantId='beta' -- ' \n",
        "tenantId='x' # ' \n ) OR (tenantId='beta' # ' \n",
        "tenantId='x' // ' \n ) OR (tenantId='beta' // ' \n",
        "tenantId='x\\' ) OR (tenantId = \\'') OR (tenantId='beta",
    ],
)
@pytest.mark.parametrize("kind", KINDS, ids=repr)
async def test_b01_a_comment_that_opens_a_pasted_scope_is_refused(client, kind, attack):
    quote = "'" if attack.endswith("beta") else ""
    pasted = f"(tenantId = 'acme') AND ({attack}{quote})"
    assert f"{BETA}:one" in await kind.rows(client, pasted)
    with pytest.raises(InvalidQueryError):
        kind.scoped(attack + quote)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
async def test_each_tenant_lists_and_counts_its_own_rows_without_a_query(client, kind):
    for tenant in (ACME, BETA):
        scoped = kind.scoped("", tenant=tenant)
        assert await kind.rows(client, scoped) == sorted(f"{tenant}:{name}" for name in NAMES)
        assert await kind.total(client, scoped) == len(NAMES)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
async def test_rows_are_found_by_name_whatever_quotes_and_comment_openers_are_in_it(client, kind):
    for name in set(NAMES) - set(UNMATCHED):
        row, doubled = f"{ACME}:{name}", name.replace("'", "''")
        for literal in (f"'{ACME}:{doubled}'", f'"{row}"'):
            assert await kind.rows(client, kind.scoped(f"{kind.id_field} = {literal}")) == [row]
        foreign = kind.scoped(f"{kind.id_field} = '{BETA}:{doubled}'")
        assert await kind.rows(client, foreign) == []


@pytest.mark.parametrize("kind", KINDS, ids=repr)
async def test_what_no_value_matches_alone_none_matches_scoped(client, kind):
    for name in UNMATCHED:
        doubled = name.replace("'", "''")
        query = f"{kind.id_field} = '{ACME}:{doubled}'"
        assert await kind.rows(client, query) == await kind.rows(client, kind.scoped(query)) == []


async def test_workflows_are_counted_by_status_within_the_tenant(client):
    counted = await WORKFLOWS.count(client, WORKFLOWS.scoped("GROUP BY ExecutionStatus"))
    assert counted.count == len(NAMES)
    counts = {group.group_values[0].data: group.count for group in counted.groups}
    assert counts == {b'"Running"': len(NAMES) - len(CLOSED), b'"Terminated"': len(CLOSED)}


async def test_standalone_activities_are_counted_by_status_within_the_tenant(client):
    counted = await ACTIVITIES.count(client, ACTIVITIES.scoped("GROUP BY `ExecutionStatus`"))
    assert [group.count for group in counted.groups] == [counted.count] == [len(NAMES)]


@pytest.mark.parametrize("kind", [WORKFLOWS, ACTIVITIES], ids=repr)
async def test_leaving_the_division_of_the_namespace_stays_within_the_tenant(client, kind):
    every = "TemporalNamespaceDivision IS NULL OR TemporalNamespaceDivision IS NOT NULL"
    alone = await kind.rows(client, every)
    assert f"temporal-sys-scheduler:{ACME}:one" in alone
    rows = await kind.rows(client, kind.scoped(every))
    assert rows == sorted(2 * acme(*NAMES))
    counted = await kind.count(client, kind.scoped(f"{every} GROUP BY TemporalNamespaceDivision"))
    assert counted.count == len(rows)


@pytest.mark.parametrize("kind", [WORKFLOWS, ACTIVITIES], ids=repr)
async def test_order_by_reaches_the_server_outside_the_scope_and_sqlite_refuses_it(client, kind):
    with pytest.raises(RPCError, match="'ORDER BY' clause") as refused:
        await kind.rows(client, kind.scoped("TaskQueue = 'one' ORDER BY StartTime DESC"))
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT


async def test_the_server_knows_schedules_by_schedule_id_only(client):
    with pytest.raises(RPCError, match='cannot filter on "WorkflowId"'):
        await SCHEDULES.rows(client, WORKFLOWS.scoped(""))


@pytest.mark.parametrize("kind", KINDS, ids=repr)
async def test_the_server_takes_the_deepest_and_the_longest_query_that_is_allowed(client, kind):
    predicate = f"{kind.id_field} = '{ACME}:one'"
    even = "NOT (" * MAX_DEPTH + predicate + ")" * MAX_DEPTH
    assert await kind.rows(client, kind.scoped(even)) == acme("one")
    start, item = f"{kind.id_field} IN ('{ACME}:one'", f",'{ACME}:{'x' * 40}'"
    items = (MAX_QUERY_LENGTH - len(start) - 1) // len(item)
    assert await kind.rows(client, kind.scoped(start + items * item + ")")) == acme("one")


async def test_b14_a_row_whose_id_differs_in_case_only_is_told_apart(client, fresh):
    tenant = fresh.tenant("case")
    row = f"{tenant.upper()}:order"
    shown = TypedSearchAttributes([SearchAttributePair(TENANT, tenant)])
    handle = await client.start_workflow(
        "nobody", id=row, task_queue=fresh.task_queue(), search_attributes=shown
    )
    scoped = WORKFLOWS.scoped("", tenant=tenant)
    await becomes(lambda: WORKFLOWS.rows(client, scoped), [row])
    assert not is_own_row(tenant, row)
    await handle.terminate()
