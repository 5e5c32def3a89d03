"""The tenancy matrix is complete: every kind of call, five things to show of each, none empty.

The cells themselves run in the two files beside this one.
"""

import inspect
from collections import Counter

import pytest
from temporalio import client, worker

from orkestra import ForbiddenOperationError
from orkestra.temporal.guard.table import RPCS, Allowed
from tests.matrix.model import COLUMNS, Impossible
from tests.matrix.page import PAGE, page
from tests.matrix.stage import Stage
from tests.matrix.table import EXEMPT, EXEMPT_RPCS, GROUPS, OF_CLIENTS, ROWS

INTERCEPTORS = {
    "client": client.OutboundInterceptor,
    "inbound": worker.WorkflowInboundInterceptor,
    "outbound": worker.WorkflowOutboundInterceptor,
    "activity": worker.ActivityInboundInterceptor,
    "activity_outbound": worker.ActivityOutboundInterceptor,
    "nexus": worker.NexusOperationInboundInterceptor,
    "worker": worker.Interceptor,
}

REFUSED = sorted(
    name.removeprefix("client.")
    for names in EXEMPT
    for name in names.split()
    if name.startswith("client.")
)


def test_no_cell_is_empty():
    for row in ROWS:
        for column in COLUMNS:
            cell = row.cell(column)
            text = cell.why if isinstance(cell, Impossible) else cell.shows
            assert len(text) >= 10, (row.kind, column)


def test_every_group_that_a_test_file_runs_exists():
    assert set(GROUPS) > OF_CLIENTS


def test_no_call_kind_has_two_rows():
    assert [kind for kind, count in Counter(row.kind for row in ROWS).items() if count > 1] == []


def test_every_method_of_the_sdks_interceptors_has_a_row_or_a_reason():
    methods = {
        f"{prefix}.{name}"
        for prefix, interceptor in INTERCEPTORS.items()
        for name, _ in inspect.getmembers(interceptor, inspect.isfunction)
        if not name.startswith("_")
    }
    exempt = {name for names in EXEMPT for name in names.split()}
    covered = {name for row in ROWS for name in row.calls.split()}
    assert covered | exempt == methods
    assert covered & exempt == set()


def test_every_rpc_that_the_guard_allows_has_a_row_or_a_reason():
    admitted = {rpc for rpc, row in RPCS.items() if isinstance(row, Allowed)}
    exempt = {name for names in EXEMPT_RPCS for name in names.split()}
    covered = {name for row in ROWS for name in row.rpcs.split()}
    assert covered | exempt == admitted
    assert covered & exempt == set()


@pytest.mark.parametrize("call", REFUSED)
async def test_calls_without_a_row_are_refused_to_a_tenant(raw_client, call):
    [side, _] = Stage.without_workers(raw_client).sides("cached")
    method = getattr(side.client._impl, call)
    with pytest.raises(ForbiddenOperationError, match=call):
        await method(object())


def test_the_page_of_the_documentation_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.matrix"
