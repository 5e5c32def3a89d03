"""Fails when the SDK grows a call that tracing has not decided on."""

import inspect

import pytest
from temporalio import client, worker

from orkestra.temporal.interceptors.tracing import TracingInterceptor
from orkestra.temporal.interceptors.tracing.activity import TracingActivityInbound
from orkestra.temporal.interceptors.tracing.client import TracingClientOutbound
from orkestra.temporal.interceptors.tracing.workflow import (
    TracingWorkflowInbound,
    TracingWorkflowOutbound,
)

NO_WORK = "it starts no work and reaches no handler that has a span"
A_QUERY = "queries have no spans by default"
NO_HEADER = "it has no header, and what it changes shows in the workflow's own span"
NEXUS = "operations come with the full matrix of calls"
LATER_RUNS = "the schedule's action brings the header"

UNTRACED = {
    client.OutboundInterceptor: {
        "backfill_schedule": LATER_RUNS,
        "cancel_activity": NO_HEADER,
        "cancel_nexus_operation": NEXUS,
        "cancel_workflow": NO_HEADER,
        "complete_async_activity": NO_HEADER,
        "count_activities": NO_WORK,
        "count_nexus_operations": NEXUS,
        "count_workflows": NO_WORK,
        "delete_schedule": NO_WORK,
        "describe_activity": NO_WORK,
        "describe_nexus_operation": NEXUS,
        "describe_schedule": NO_WORK,
        "describe_workflow": NO_WORK,
        "fail_async_activity": NO_HEADER,
        "fetch_workflow_history_events": NO_WORK,
        "get_nexus_operation_result": NEXUS,
        "get_worker_build_id_compatibility": NO_WORK,
        "get_worker_task_reachability": NO_WORK,
        "heartbeat_async_activity": NO_HEADER,
        "list_activities": NO_WORK,
        "list_nexus_operations": NEXUS,
        "list_schedules": NO_WORK,
        "list_workflows": NO_WORK,
        "pause_activity": NO_HEADER,
        "pause_schedule": NO_WORK,
        "query_workflow": A_QUERY,
        "report_cancellation_async_activity": NO_HEADER,
        "start_nexus_operation": NEXUS,
        "terminate_activity": NO_HEADER,
        "terminate_nexus_operation": NEXUS,
        "terminate_workflow": NO_HEADER,
        "trigger_schedule": LATER_RUNS,
        "unpause_activity": NO_HEADER,
        "unpause_schedule": NO_WORK,
        "update_activity_options": NO_HEADER,
        "update_worker_build_id_compatibility": NO_WORK,
    },
    worker.WorkflowInboundInterceptor: {
        "handle_query": A_QUERY,
        "handle_update_validator": "the handler's span shows the update; a rejected one is no work",
    },
    worker.WorkflowOutboundInterceptor: {
        "info": NO_WORK,
        "start_nexus_operation": NEXUS,
        "start_signal_with_start_workflow": NEXUS,
        "start_system_nexus_operation": NEXUS,
    },
    worker.ActivityInboundInterceptor: {"init": "nothing outbound of an activity has a header"},
    worker.Interceptor: {"intercept_nexus_operation": NEXUS},
}


def methods(interceptor: type) -> set[str]:
    return {
        name
        for name, _ in inspect.getmembers(interceptor, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (client.Interceptor, TracingInterceptor),
        (client.OutboundInterceptor, TracingClientOutbound),
        (worker.Interceptor, TracingInterceptor),
        (worker.WorkflowInboundInterceptor, TracingWorkflowInbound),
        (worker.WorkflowOutboundInterceptor, TracingWorkflowOutbound),
        (worker.ActivityInboundInterceptor, TracingActivityInbound),
    ],
)
def test_every_hook_is_traced_or_left_out_for_a_reason(theirs, ours):
    untraced = set(UNTRACED.get(theirs, {}))
    traced = methods(theirs) & set(vars(ours))
    assert traced | untraced == methods(theirs)
    assert not traced & untraced


def test_what_an_activity_sends_out_is_heartbeats_only():
    assert methods(worker.ActivityOutboundInterceptor) == {"heartbeat", "info"}
