"""Fails when the SDK grows a call that tenancy has not decided on."""

import inspect

import pytest
from temporalio import client, worker

from orkestra.temporal.tenant.activity_calls import TenantActivityInbound, TenantNexusInbound
from orkestra.temporal.tenant.client_calls import CALLS, REFUSED, TenantClientOutbound
from orkestra.temporal.tenant.tenant_interceptor import TenantWorkerInterceptor
from orkestra.temporal.tenant.workflow_calls import TenantWorkflowInbound, TenantWorkflowOutbound

NEEDS_NO_TENANT = {
    worker.WorkflowOutboundInterceptor: {"info"},
    worker.ActivityInboundInterceptor: {"init"},
    worker.ActivityOutboundInterceptor: {"info", "heartbeat"},
}


def methods(interceptor: type) -> set[str]:
    return {
        name
        for name, _ in inspect.getmembers(interceptor, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_client_call_has_a_rule_or_is_refused():
    calls = methods(client.OutboundInterceptor)
    assert calls == set(CALLS) | REFUSED
    assert not set(CALLS) & REFUSED
    assert calls <= set(vars(TenantClientOutbound))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (worker.WorkflowInboundInterceptor, TenantWorkflowInbound),
        (worker.WorkflowOutboundInterceptor, TenantWorkflowOutbound),
        (worker.ActivityInboundInterceptor, TenantActivityInbound),
        (worker.NexusOperationInboundInterceptor, TenantNexusInbound),
        (worker.Interceptor, TenantWorkerInterceptor),
    ],
)
def test_every_worker_hook_is_overridden_or_needs_no_tenant(theirs, ours):
    undecided = methods(theirs) - set(vars(ours)) - NEEDS_NO_TENANT.get(theirs, set())
    assert undecided == set()


def test_the_hooks_inside_an_activity_send_nothing_to_another_workflow():
    assert (
        methods(worker.ActivityOutboundInterceptor)
        == NEEDS_NO_TENANT[worker.ActivityOutboundInterceptor]
    )
