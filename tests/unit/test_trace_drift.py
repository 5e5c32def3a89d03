"""Fails when the SDK grows a call that tracing has not decided on."""

import inspect

import pytest
from temporalio import client, worker
from temporalio.bridge.proto.workflow_activation import (
    RemoveFromCache,
    WorkflowActivation,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from orkestra.temporal.tracing import TracingInterceptor
from orkestra.temporal.tracing.outbox import COMMITTED_EVICTIONS, INCONCLUSIVE_EVICTIONS
from orkestra.temporal.tracing.tracing_interceptor import (
    TracingActivityInbound,
    TracingClientOutbound,
    TracingNexusInbound,
)
from orkestra.temporal.tracing.workflow_spans import (
    TracingWorkflowInbound,
    TracingWorkflowOutbound,
)

NO_WORK = "it starts no work and reaches no handler that has a span"
A_QUERY = "the workflow's side has the span of a query, where it is wanted"
NO_HEADER = "it has no header, and what it changes shows in the workflow's own span"
NEXUS = "standalone operations belong to no workflow"
SYSTEM = "a command to the server in other clothes: the workflow that it reaches has the span"
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
        "handle_update_validator": "the handler's span shows the update; a rejected one is no work",
    },
    worker.WorkflowOutboundInterceptor: {
        "info": NO_WORK,
        "start_signal_with_start_workflow": SYSTEM,
        "start_system_nexus_operation": SYSTEM,
    },
    worker.ActivityInboundInterceptor: {"init": "nothing outbound of an activity has a header"},
    worker.NexusOperationInboundInterceptor: {"execute_nexus_operation_cancel": NO_WORK},
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
        (worker.NexusOperationInboundInterceptor, TracingNexusInbound),
    ],
)
def test_every_interceptor_method_is_traced_or_left_out_for_a_reason(theirs, ours):
    untraced = set(UNTRACED.get(theirs, {}))
    traced = methods(theirs) & set(vars(ours))
    assert traced | untraced == methods(theirs)
    assert not traced & untraced


def test_activities_have_no_outbound_call_with_headers():
    assert methods(worker.ActivityOutboundInterceptor) == {"heartbeat", "info"}


def test_every_eviction_reason_says_whether_the_task_was_committed():
    """Spans of a task that was not committed are dropped, because the task makes them again."""
    reasons = {value.name for value in RemoveFromCache.EvictionReason.DESCRIPTOR.values}
    known = {
        RemoveFromCache.EvictionReason.Name(reason)
        for reason in COMMITTED_EVICTIONS | INCONCLUSIVE_EVICTIONS
    }
    refused = {
        "FATAL",
        "LANG_FAIL",
        "NONDETERMINISM",
        "TASK_NOT_FOUND",
        "UNHANDLED_COMMAND",
        "UNSPECIFIED",
    }
    assert known | refused == reasons
    assert not known & refused


def test_activations_and_commands_have_the_fields_that_the_outbox_reads():
    assert {"run_id", "timestamp", "is_replaying", "history_length", "jobs"} <= names(
        WorkflowActivation
    )
    assert names(WorkflowActivationJob) == {
        "cancel_workflow",
        "do_update",
        "fire_timer",
        "initialize_workflow",
        "notify_has_patch",
        "query_workflow",
        "remove_from_cache",
        "resolve_activity",
        "resolve_child_workflow_execution",
        "resolve_child_workflow_execution_start",
        "resolve_nexus_operation",
        "resolve_nexus_operation_start",
        "resolve_request_cancel_external_workflow",
        "resolve_signal_external_workflow",
        "signal_workflow",
        "update_random_seed",
    }
    variants = {field.name for field in WorkflowCommand.DESCRIPTOR.oneofs_by_name["variant"].fields}
    assert {
        "cancel_timer",
        "cancel_workflow_execution",
        "complete_workflow_execution",
        "continue_as_new_workflow_execution",
        "fail_workflow_execution",
        "schedule_local_activity",
        "schedule_nexus_operation",
        "signal_external_workflow_execution",
        "start_child_workflow_execution",
        "start_timer",
    } <= variants


def names(message: type) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.fields}
