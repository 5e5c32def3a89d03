"""Drift guard: fails when the SDK adds a call or command that tenancy does not handle."""

import inspect

import pytest
from temporalio import client, worker
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from orkestra.temporal.tenant.activity_calls import TenantActivityInbound, TenantNexusInbound
from orkestra.temporal.tenant.client_calls import TenantClientOutbound
from orkestra.temporal.tenant.run_commands import COMMANDS
from orkestra.temporal.tenant.tenant_interceptor import TenantWorkerInterceptor
from orkestra.temporal.tenant.workflow_calls import TenantWorkflowInbound, TenantWorkflowOutbound

NEEDS_NO_TENANT = {
    worker.WorkflowOutboundInterceptor: {"info"},
    worker.ActivityInboundInterceptor: {"init"},
    worker.ActivityOutboundInterceptor: {"info", "heartbeat"},
}

CONCERNS_THE_RUN_ALONE = {
    "cancel_child_workflow_execution",
    "cancel_signal_workflow",
    "cancel_timer",
    "cancel_workflow_execution",
    "complete_workflow_execution",
    "fail_workflow_execution",
    "request_cancel_activity",
    "request_cancel_local_activity",
    "request_cancel_nexus_operation",
    "respond_to_query",
    "set_patch_marker",
    "start_timer",
    "update_response",
}


def methods(interceptor: type) -> set[str]:
    return {
        name
        for name, _ in inspect.getmembers(interceptor, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_client_call_is_written_out():
    assert methods(client.OutboundInterceptor) <= set(vars(TenantClientOutbound))


def test_every_command_of_a_workflow_is_verified_or_concerns_the_run_alone():
    variants = {field.name for field in WorkflowCommand.DESCRIPTOR.oneofs_by_name["variant"].fields}
    assert variants == set(COMMANDS) | CONCERNS_THE_RUN_ALONE


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
