"""Tests of the refunds. `pytest` starts a real Temporal server for them."""

import pytest
from temporalio.client import WorkflowFailureError

from orkestra import start_workflow
from orkestra.testing import OrkestraEnvironment, TenantActivityEnvironment, assert_isolated
from refunds.activities import pay
from refunds.models import Request
from refunds.workflows import RefundRequest

SMALL = Request(order="17", cents=1_200)
LARGE = Request(order="18", cents=90_000)


async def test_a_small_refund_is_paid_at_once(environment: OrkestraEnvironment, tenant: str):
    client = await environment.client(tenant)
    async with environment.worker(RefundRequest, activities=[pay]) as queue:
        refund = await start_workflow(client, RefundRequest.run, SMALL, task_queue=queue)
        assert (await refund.result()).note == f"{tenant} paid 12.00 for 17"
        trace = await environment.trace_of(refund)
    trace.is_one_tree().span("activity:pay").succeeded()


async def test_a_large_refund_waits_for_a_decision(environment: OrkestraEnvironment, tenant: str):
    client = await environment.client(tenant)
    async with environment.worker(RefundRequest, activities=[pay]) as queue:
        refund = await start_workflow(client, RefundRequest.run, LARGE, task_queue=queue)
        assert await refund.query(RefundRequest.waits)
        await refund.signal(RefundRequest.decide, False)
        assert not (await refund.result()).paid


async def test_a_refund_without_a_decision_ends_after_a_week(
    time_skipping: OrkestraEnvironment, tenant: str
):
    client = await time_skipping.client(tenant)
    async with time_skipping.worker(RefundRequest, activities=[pay]) as queue:
        refund = await start_workflow(client, RefundRequest.run, LARGE, task_queue=queue)
        assert (await refund.result()).note == "nobody approved within a week"


async def test_tenants_are_isolated(environment: OrkestraEnvironment):
    async with environment.worker(RefundRequest, activities=[pay]) as queue:
        await assert_isolated(environment, RefundRequest.run, SMALL, task_queue=queue)


async def test_a_refund_of_nothing_fails(environment: OrkestraEnvironment, tenant: str):
    client = await environment.client(tenant)
    async with environment.worker(RefundRequest, activities=[pay]) as queue:
        nothing = Request(order="19", cents=0)
        refund = await start_workflow(client, RefundRequest.run, nothing, task_queue=queue)
        with pytest.raises(WorkflowFailureError):
            await refund.result()
        trace = await environment.trace_of(refund)
    trace.span("activity:pay").has_error("cannot be refunded")


async def test_the_activity_knows_its_tenant():
    assert await TenantActivityEnvironment("acme").run(pay, SMALL) == "acme paid 12.00 for 17"
