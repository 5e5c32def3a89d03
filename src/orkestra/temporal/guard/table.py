"""One row for each RPC of the workflow service, and one for each other service.

Shapes of the requests about workflows.

Shapes of the requests about schedules: what a schedule starts is held like a start.

Shapes of the requests about activities: standalone ones, and by ID those of a workflow.

Shapes of the messages that requests are made of.

All shapes by the full name of their message.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import (
    ActivityType,
    Callback,
    FastForwardConfig,
    Header,
    Link,
    Memo,
    OnConflictOptions,
    Payload,
    Payloads,
    Priority,
    RetryPolicy,
    SearchAttributes,
    TimeSkippingConfig,
    WorkflowExecution,
    WorkflowType,
)
from temporalio.api.failure.v1 import (
    ActivityFailureInfo,
    ApplicationFailureInfo,
    CanceledFailureInfo,
    ChildWorkflowExecutionFailureInfo,
    Failure,
    NexusHandlerFailureInfo,
    NexusOperationFailureInfo,
    ResetWorkflowFailureInfo,
    ServerFailureInfo,
    TerminatedFailureInfo,
    TimeoutFailureInfo,
)
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.schedule.v1 import (
    BackfillRequest,
    CalendarSpec,
    IntervalSpec,
    Range,
    Schedule,
    ScheduleAction,
    SchedulePatch,
    SchedulePolicies,
    ScheduleSpec,
    ScheduleState,
    StructuredCalendarSpec,
    TriggerImmediatelyRequest,
)
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, UpdateRef, WaitPolicy
from temporalio.api.workflow.v1 import NewWorkflowExecutionInfo
from temporalio.api.workflow.v1 import OnConflictOptions as WorkflowOnConflictOptions
from temporalio.api.workflowservice import v1 as api
from temporalio.api.workflowservice.v1 import (
    CountActivityExecutionsRequest,
    CountSchedulesRequest,
    CountWorkflowExecutionsRequest,
    CreateScheduleRequest,
    DeleteActivityExecutionRequest,
    DeleteScheduleRequest,
    DeleteWorkflowExecutionRequest,
    DescribeActivityExecutionRequest,
    DescribeNamespaceRequest,
    DescribeScheduleRequest,
    DescribeWorkflowExecutionRequest,
    ExecuteMultiOperationRequest,
    GetClusterInfoRequest,
    GetSystemInfoRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    ListActivityExecutionsRequest,
    ListScheduleMatchingTimesRequest,
    ListSchedulesRequest,
    ListWorkflowExecutionsRequest,
    PatchScheduleRequest,
    PauseActivityExecutionRequest,
    PauseActivityRequest,
    PauseWorkflowExecutionRequest,
    PollActivityExecutionRequest,
    PollWorkflowExecutionUpdateRequest,
    QueryWorkflowRequest,
    RecordActivityTaskHeartbeatByIdRequest,
    RequestCancelActivityExecutionRequest,
    RequestCancelWorkflowExecutionRequest,
    ResetActivityExecutionRequest,
    ResetActivityRequest,
    ResetWorkflowExecutionRequest,
    RespondActivityTaskCanceledByIdRequest,
    RespondActivityTaskCompletedByIdRequest,
    RespondActivityTaskFailedByIdRequest,
    SignalWithStartWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartActivityExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateActivityExecutionRequest,
    TerminateWorkflowExecutionRequest,
    UnpauseActivityExecutionRequest,
    UnpauseActivityRequest,
    UnpauseWorkflowExecutionRequest,
    UpdateActivityExecutionOptionsRequest,
    UpdateActivityOptionsRequest,
    UpdateScheduleRequest,
    UpdateWorkflowExecutionRequest,
)

from orkestra.temporal._sdk import HealthCheckRequest
from orkestra.temporal.guard import rules
from orkestra.temporal.guard.rules import (
    INSIDE,
    Allowed,
    Denied,
    Shape,
    namespace_outline,
    own_rows,
)

_ARCHIVE: Final = Denied("the archive's query language cannot be held inside a tenant")
_ATTRIBUTES: Final = Denied("it lists the search attributes of the cluster")
_BATCHES: Final = Denied("the server works a batch off without asking whose each execution is")
_FILTERS: Final = Denied("it cannot filter by tenant: use list_workflow_executions")
_NAMESPACES: Final = Denied("namespaces are the operator's")
_NEXUS_DENIED: Final = Denied(
    "an endpoint may lead into any namespace, and nothing carries the tenant"
)
_OPTIONS: Final = Denied("versions, priority and clock of a running workflow are the operator's")
_QUEUES: Final = Denied("a task queue and its workers serve other tenants, too")
_RULES: Final = Denied("a rule acts on the workflows of all tenants")
_SCAN: Final = Denied("its page token may hold another query: use list_workflow_executions")
_TASKS: Final = Denied("only workers, which serve all tenants, take tasks and answer them")
_TIME: Final = Denied("only test environments skip time")
_TOKENS: Final = Denied(
    "a task token does not say whose it is, and can be forged: complete the activity by workflow"
    " ID, run ID and activity ID"
)
_VERSIONS: Final = Denied("versions of workers are the operator's")
_WORKERS: Final = Denied("workers serve other tenants, too")

RPCS: Final[Mapping[str, Allowed | Denied]] = {
    "count_activity_executions": Allowed(api.CountActivityExecutionsRequest),
    "count_nexus_operation_executions": _NEXUS_DENIED,
    "count_schedules": Allowed(api.CountSchedulesRequest),
    "count_workers": _WORKERS,
    "count_workflow_executions": Allowed(api.CountWorkflowExecutionsRequest),
    "create_schedule": Allowed(api.CreateScheduleRequest),
    "create_worker_deployment": _VERSIONS,
    "create_worker_deployment_version": _VERSIONS,
    "create_workflow_rule": _RULES,
    "delete_activity_execution": Allowed(api.DeleteActivityExecutionRequest),
    "delete_nexus_operation_execution": _NEXUS_DENIED,
    "delete_schedule": Allowed(api.DeleteScheduleRequest),
    "delete_worker_deployment": _VERSIONS,
    "delete_worker_deployment_version": _VERSIONS,
    "delete_workflow_execution": Allowed(api.DeleteWorkflowExecutionRequest),
    "delete_workflow_rule": _RULES,
    "deprecate_namespace": _NAMESPACES,
    "describe_activity_execution": Allowed(api.DescribeActivityExecutionRequest),
    "describe_batch_operation": _BATCHES,
    "describe_deployment": _VERSIONS,
    "describe_namespace": Allowed(
        api.DescribeNamespaceRequest, response=namespace_outline, needs_tenant=False
    ),
    "describe_nexus_operation_execution": _NEXUS_DENIED,
    "describe_schedule": Allowed(api.DescribeScheduleRequest),
    "describe_task_queue": _QUEUES,
    "describe_worker": _WORKERS,
    "describe_worker_deployment": _VERSIONS,
    "describe_worker_deployment_version": _VERSIONS,
    "describe_workflow_execution": Allowed(api.DescribeWorkflowExecutionRequest),
    "describe_workflow_rule": _RULES,
    "execute_multi_operation": Allowed(api.ExecuteMultiOperationRequest),
    "fetch_worker_config": _WORKERS,
    "get_cluster_info": Allowed(api.GetClusterInfoRequest, needs_tenant=False),
    "get_current_deployment": _VERSIONS,
    "get_deployment_reachability": _VERSIONS,
    "get_search_attributes": _ATTRIBUTES,
    "get_system_info": Allowed(api.GetSystemInfoRequest, needs_tenant=False),
    "get_worker_build_id_compatibility": _VERSIONS,
    "get_worker_task_reachability": _VERSIONS,
    "get_worker_versioning_rules": _VERSIONS,
    "get_workflow_execution_history": Allowed(api.GetWorkflowExecutionHistoryRequest),
    "get_workflow_execution_history_reverse": Allowed(
        api.GetWorkflowExecutionHistoryReverseRequest
    ),
    "list_activity_executions": Allowed(
        api.ListActivityExecutionsRequest, response=own_rows("executions", "activity_id")
    ),
    "list_archived_workflow_executions": _ARCHIVE,
    "list_batch_operations": _BATCHES,
    "list_closed_workflow_executions": _FILTERS,
    "list_deployments": _VERSIONS,
    "list_namespaces": _NAMESPACES,
    "list_nexus_operation_executions": _NEXUS_DENIED,
    "list_open_workflow_executions": _FILTERS,
    "list_schedule_matching_times": Allowed(api.ListScheduleMatchingTimesRequest),
    "list_schedules": Allowed(
        api.ListSchedulesRequest, response=own_rows("schedules", "schedule_id")
    ),
    "list_task_queue_partitions": _QUEUES,
    "list_worker_deployments": _VERSIONS,
    "list_workers": _WORKERS,
    "list_workflow_executions": Allowed(
        api.ListWorkflowExecutionsRequest, response=own_rows("executions", "execution.workflow_id")
    ),
    "list_workflow_rules": _RULES,
    "patch_schedule": Allowed(api.PatchScheduleRequest),
    "pause_activity": Allowed(api.PauseActivityRequest),
    "pause_activity_execution": Allowed(api.PauseActivityExecutionRequest),
    "pause_workflow_execution": Allowed(api.PauseWorkflowExecutionRequest),
    "poll_activity_execution": Allowed(api.PollActivityExecutionRequest),
    "poll_activity_task_queue": _TASKS,
    "poll_nexus_operation_execution": _NEXUS_DENIED,
    "poll_nexus_task_queue": _TASKS,
    "poll_workflow_execution_time_skipping": _TIME,
    "poll_workflow_execution_update": Allowed(api.PollWorkflowExecutionUpdateRequest),
    "poll_workflow_task_queue": _TASKS,
    "query_workflow": Allowed(api.QueryWorkflowRequest),
    "record_activity_task_heartbeat": _TOKENS,
    "record_activity_task_heartbeat_by_id": Allowed(api.RecordActivityTaskHeartbeatByIdRequest),
    "record_worker_heartbeat": _WORKERS,
    "register_namespace": _NAMESPACES,
    "request_cancel_activity_execution": Allowed(api.RequestCancelActivityExecutionRequest),
    "request_cancel_nexus_operation_execution": _NEXUS_DENIED,
    "request_cancel_workflow_execution": Allowed(api.RequestCancelWorkflowExecutionRequest),
    "reset_activity": Allowed(api.ResetActivityRequest),
    "reset_activity_execution": Allowed(api.ResetActivityExecutionRequest),
    "reset_sticky_task_queue": _QUEUES,
    "reset_workflow_execution": Allowed(api.ResetWorkflowExecutionRequest),
    "respond_activity_task_canceled": _TOKENS,
    "respond_activity_task_canceled_by_id": Allowed(api.RespondActivityTaskCanceledByIdRequest),
    "respond_activity_task_completed": _TOKENS,
    "respond_activity_task_completed_by_id": Allowed(api.RespondActivityTaskCompletedByIdRequest),
    "respond_activity_task_failed": _TOKENS,
    "respond_activity_task_failed_by_id": Allowed(api.RespondActivityTaskFailedByIdRequest),
    "respond_nexus_task_completed": _TASKS,
    "respond_nexus_task_failed": _TASKS,
    "respond_query_task_completed": _TASKS,
    "respond_workflow_task_completed": _TASKS,
    "respond_workflow_task_failed": _TASKS,
    "scan_workflow_executions": _SCAN,
    "set_current_deployment": _VERSIONS,
    "set_worker_deployment_current_version": _VERSIONS,
    "set_worker_deployment_manager": _VERSIONS,
    "set_worker_deployment_ramping_version": _VERSIONS,
    "shutdown_worker": _WORKERS,
    "signal_with_start_workflow_execution": Allowed(api.SignalWithStartWorkflowExecutionRequest),
    "signal_workflow_execution": Allowed(api.SignalWorkflowExecutionRequest),
    "start_activity_execution": Allowed(api.StartActivityExecutionRequest),
    "start_batch_operation": _BATCHES,
    "start_nexus_operation_execution": _NEXUS_DENIED,
    "start_workflow_execution": Allowed(api.StartWorkflowExecutionRequest),
    "stop_batch_operation": _BATCHES,
    "terminate_activity_execution": Allowed(api.TerminateActivityExecutionRequest),
    "terminate_nexus_operation_execution": _NEXUS_DENIED,
    "terminate_workflow_execution": Allowed(api.TerminateWorkflowExecutionRequest),
    "trigger_workflow_rule": _RULES,
    "unpause_activity": Allowed(api.UnpauseActivityRequest),
    "unpause_activity_execution": Allowed(api.UnpauseActivityExecutionRequest),
    "unpause_workflow_execution": Allowed(api.UnpauseWorkflowExecutionRequest),
    "update_activity_execution_options": Allowed(api.UpdateActivityExecutionOptionsRequest),
    "update_activity_options": Allowed(api.UpdateActivityOptionsRequest),
    "update_namespace": _NAMESPACES,
    "update_schedule": Allowed(api.UpdateScheduleRequest),
    "update_task_queue_config": _QUEUES,
    "update_worker_build_id_compatibility": _VERSIONS,
    "update_worker_config": _WORKERS,
    "update_worker_deployment_version_compute_config": _VERSIONS,
    "update_worker_deployment_version_metadata": _VERSIONS,
    "update_worker_versioning_rules": _VERSIONS,
    "update_workflow_execution": Allowed(api.UpdateWorkflowExecutionRequest),
    "update_workflow_execution_options": _OPTIONS,
    "validate_worker_deployment_version_compute_config": _VERSIONS,
}
"""What a tenant may call of the workflow service."""

SERVICES: Final[Mapping[str, Mapping[str, Allowed | Denied] | Denied]] = {
    "workflow": RPCS,
    "operator": Denied("search attributes, namespaces, clusters and endpoints are the operator's"),
    "cloud": Denied("the Temporal Cloud account is the operator's"),
    "test": Denied("the clock of a test server is everybody's"),
    "health": {"check": Allowed(HealthCheckRequest, needs_tenant=False)},
}
"""The same for each service, under the name that the SDK gives it."""


DEPLOYMENTS: Final = "versions of workers are the operator's"
SERVER_ONLY: Final = "only the server sets it"
DEPRECATED: Final = "it is deprecated and no SDK sets it"
ROUTING: Final = "it routes the request past the ID in it"

_STARTS: Final = (
    Shape(
        StartWorkflowExecutionRequest,
        must={
            "namespace": rules.own_namespace,
            "workflow_id": rules.own_id,
            "header": INSIDE,
            "search_attributes": INSIDE,
            "priority": INSIDE,
        },
        free="workflow_type task_queue input workflow_execution_timeout workflow_run_timeout"
        " workflow_task_timeout identity request_id workflow_id_reuse_policy"
        " workflow_id_conflict_policy retry_policy cron_schedule memo request_eager_execution"
        " workflow_start_delay user_metadata time_skipping_config"
        " completion_callbacks links on_conflict_options",
        never={
            "continued_failure": SERVER_ONLY,
            "last_completion_result": SERVER_ONLY,
            "versioning_override": DEPLOYMENTS,
            "eager_worker_deployment_options": DEPLOYMENTS,
            "propagated_nexus_serialization_context": SERVER_ONLY,
        },
    ),
    Shape(
        SignalWithStartWorkflowExecutionRequest,
        must={
            "namespace": rules.own_namespace,
            "workflow_id": rules.own_id,
            "header": INSIDE,
            "search_attributes": INSIDE,
            "priority": INSIDE,
        },
        free="workflow_type task_queue input workflow_execution_timeout workflow_run_timeout"
        " workflow_task_timeout identity request_id workflow_id_reuse_policy"
        " workflow_id_conflict_policy signal_name signal_input retry_policy cron_schedule memo"
        " workflow_start_delay user_metadata time_skipping_config links",
        never={"control": DEPRECATED, "versioning_override": DEPLOYMENTS},
    ),
    Shape(
        ExecuteMultiOperationRequest,
        must={"namespace": rules.own_namespace},
        free="operations",
        never={"resource_id": ROUTING},
    ),
    Shape(ExecuteMultiOperationRequest.Operation, free="start_workflow update_workflow"),
)

_MESSAGES: Final = (
    Shape(
        SignalWorkflowExecutionRequest,
        must={
            "namespace": rules.own_namespace,
            "workflow_execution": INSIDE,
            "header": INSIDE,
        },
        free="signal_name input identity request_id links",
        never={"control": DEPRECATED},
    ),
    Shape(
        QueryWorkflowRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE, "query": INSIDE},
        free="query_reject_condition",
    ),
    Shape(
        UpdateWorkflowExecutionRequest,
        must={
            "namespace": rules.own_namespace,
            "workflow_execution": INSIDE,
            "request": INSIDE,
        },
        free="first_execution_run_id wait_policy",
    ),
    Shape(
        PollWorkflowExecutionUpdateRequest,
        must={"namespace": rules.own_namespace, "update_ref": INSIDE},
        free="identity wait_policy",
    ),
)

_BY_ID: Final = (
    Shape(
        RequestCancelWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "workflow_execution": INSIDE},
        free="identity request_id first_execution_run_id reason links",
    ),
    Shape(
        TerminateWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "workflow_execution": INSIDE},
        free="reason details identity first_execution_run_id links",
    ),
    Shape(
        DeleteWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "workflow_execution": INSIDE},
    ),
    Shape(
        DescribeWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
    ),
    Shape(
        ResetWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "workflow_execution": INSIDE},
        free="reason workflow_task_finish_event_id request_id reset_reapply_type"
        " reset_reapply_exclude_types identity",
        never={"post_reset_operations": "signals among them carry no checked tenant"},
    ),
    Shape(
        PauseWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "workflow_id": rules.own_id},
        free="run_id identity reason request_id",
    ),
    Shape(
        UnpauseWorkflowExecutionRequest,
        must={"namespace": rules.own_namespace, "workflow_id": rules.own_id},
        free="run_id identity reason request_id",
    ),
    # The server refuses page tokens of another run, forged ones too; a test holds it to that.
    Shape(
        GetWorkflowExecutionHistoryRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
        free="maximum_page_size next_page_token wait_new_event history_event_filter_type"
        " skip_archival",
    ),
    Shape(
        GetWorkflowExecutionHistoryReverseRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
        free="maximum_page_size next_page_token",
    ),
)

_LISTS: Final = (
    Shape(
        ListWorkflowExecutionsRequest,
        must={
            "namespace": rules.own_namespace,
            "query": rules.scoped_query("WorkflowId"),
        },
        free="page_size next_page_token",
    ),
    Shape(
        CountWorkflowExecutionsRequest,
        must={
            "namespace": rules.own_namespace,
            "query": rules.scoped_query("WorkflowId"),
        },
    ),
)

_SERVER: Final = (
    Shape(GetSystemInfoRequest),
    Shape(GetClusterInfoRequest),
    Shape(HealthCheckRequest, free="service"),
    Shape(
        DescribeNamespaceRequest,
        must={"namespace": rules.own_namespace},
        free="weak_consistency",
        never={"id": "the namespace is named by its name"},
    ),
)

WORKFLOWS: Final[Sequence[Shape]] = (*_STARTS, *_MESSAGES, *_BY_ID, *_LISTS, *_SERVER)
"""Shapes of the requests about workflows, and about the server."""


_REQUESTS: Final = (
    Shape(
        CreateScheduleRequest,
        must={
            "namespace": rules.own_namespace,
            "schedule_id": rules.own_id,
            "schedule": INSIDE,
            "search_attributes": INSIDE,
        },
        free="initial_patch identity request_id memo",
    ),
    # Without search attributes and memo, those of the schedule stay as they are.
    Shape(
        UpdateScheduleRequest,
        must={
            "namespace": rules.own_namespace,
            "schedule_id": rules.own_id,
            "schedule": INSIDE,
        },
        free="conflict_token identity request_id search_attributes memo",
    ),
    Shape(
        PatchScheduleRequest,
        must={"namespace": rules.own_namespace, "schedule_id": rules.own_id},
        free="patch identity request_id",
    ),
    Shape(
        DescribeScheduleRequest,
        must={"namespace": rules.own_namespace, "schedule_id": rules.own_id},
    ),
    Shape(
        DeleteScheduleRequest,
        must={"namespace": rules.own_namespace, "schedule_id": rules.own_id},
        free="identity",
    ),
    Shape(
        ListScheduleMatchingTimesRequest,
        must={"namespace": rules.own_namespace, "schedule_id": rules.own_id},
        free="start_time end_time",
    ),
    Shape(
        ListSchedulesRequest,
        must={
            "namespace": rules.own_namespace,
            "query": rules.scoped_query("ScheduleId"),
        },
        free="maximum_page_size next_page_token",
    ),
    Shape(
        CountSchedulesRequest,
        must={
            "namespace": rules.own_namespace,
            "query": rules.scoped_query("ScheduleId"),
        },
    ),
)

_PARTS: Final = (
    Shape(Schedule, must={"action": INSIDE}, free="spec policies state"),
    Shape(ScheduleAction, must={"start_workflow": INSIDE}),
    Shape(
        NewWorkflowExecutionInfo,
        must={
            "workflow_id": rules.own_id,
            "header": INSIDE,
            "search_attributes": INSIDE,
            "priority": INSIDE,
        },
        free="workflow_type task_queue input workflow_execution_timeout workflow_run_timeout"
        " workflow_task_timeout workflow_id_reuse_policy retry_policy cron_schedule memo"
        " user_metadata",
        never={"versioning_override": DEPLOYMENTS},
    ),
    Shape(
        ScheduleSpec,
        free="structured_calendar cron_string calendar interval exclude_calendar"
        " exclude_structured_calendar start_time end_time jitter timezone_name",
        never={"timezone_data": SERVER_ONLY},
    ),
    Shape(
        StructuredCalendarSpec,
        free="second minute hour day_of_month month year day_of_week comment",
    ),
    Shape(CalendarSpec, free="second minute hour day_of_month month year day_of_week comment"),
    Shape(IntervalSpec, free="interval phase"),
    Shape(Range, free="start end step"),
    Shape(
        SchedulePolicies,
        free="overlap_policy catchup_window pause_on_failure keep_original_workflow_id",
    ),
    Shape(ScheduleState, free="notes paused limited_actions remaining_actions"),
    Shape(SchedulePatch, free="trigger_immediately backfill_request pause unpause"),
    Shape(TriggerImmediatelyRequest, free="overlap_policy scheduled_time"),
    Shape(BackfillRequest, free="start_time end_time overlap_policy"),
)

SCHEDULES: Final[Sequence[Shape]] = (*_REQUESTS, *_PARTS)
"""Shapes of the requests about schedules."""


_STANDALONE: Final = (
    Shape(
        StartActivityExecutionRequest,
        must={
            "namespace": rules.own_namespace,
            "activity_id": rules.own_id,
            "header": INSIDE,
            "search_attributes": INSIDE,
            "priority": INSIDE,
        },
        free="identity request_id activity_type task_queue schedule_to_close_timeout"
        " schedule_to_start_timeout start_to_close_timeout heartbeat_timeout retry_policy input"
        " id_reuse_policy id_conflict_policy user_metadata start_delay"
        " completion_callbacks links on_conflict_options",
        never={
            "propagated_nexus_serialization_context": SERVER_ONLY,
            "request_eager_execution": "its answer is a task, which is a worker's",
        },
    ),
    # The SDK polls without its interceptors, with the ID as the caller wrote it.
    Shape(
        PollActivityExecutionRequest,
        must={"namespace": rules.own_namespace, "activity_id": rules.scoped_id},
        free="run_id",
    ),
    Shape(
        DescribeActivityExecutionRequest,
        must={"namespace": rules.own_namespace, "activity_id": rules.own_id},
        free="run_id include_input include_outcome include_heartbeat_details include_last_failure",
        never={"long_poll_token": "it refers to an execution past the ID in the request"},
    ),
    Shape(
        RequestCancelActivityExecutionRequest,
        must={"namespace": rules.own_namespace, "activity_id": rules.own_id},
        free="run_id identity request_id reason",
    ),
    Shape(
        TerminateActivityExecutionRequest,
        must={"namespace": rules.own_namespace, "activity_id": rules.own_id},
        free="run_id identity request_id reason",
    ),
    Shape(
        DeleteActivityExecutionRequest,
        must={"namespace": rules.own_namespace, "activity_id": rules.own_id},
        free="run_id",
    ),
    Shape(
        ListActivityExecutionsRequest,
        must={
            "namespace": rules.own_namespace,
            "query": rules.scoped_query("ActivityId"),
        },
        free="page_size next_page_token",
    ),
    Shape(
        CountActivityExecutionsRequest,
        must={
            "namespace": rules.own_namespace,
            "query": rules.scoped_query("ActivityId"),
        },
    ),
)

_OF_EITHER_KIND: Final = (
    Shape(
        PauseActivityExecutionRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id activity_id run_id identity reason request_id",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
    Shape(
        UnpauseActivityExecutionRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id activity_id run_id identity reason jitter request_id",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
    Shape(
        ResetActivityExecutionRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id activity_id run_id identity keep_paused jitter"
        " restore_original_options request_id reset_heartbeat",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
    Shape(
        UpdateActivityExecutionOptionsRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id activity_id run_id identity activity_options update_mask"
        " restore_original request_id",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity, rules.changed_options),
    ),
    Shape(
        RecordActivityTaskHeartbeatByIdRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id run_id activity_id details identity",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
    Shape(
        RespondActivityTaskCompletedByIdRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id run_id activity_id result identity",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
    Shape(
        RespondActivityTaskFailedByIdRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id run_id activity_id failure identity last_heartbeat_details cause",
        never={"resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
    Shape(
        RespondActivityTaskCanceledByIdRequest,
        must={"namespace": rules.own_namespace},
        free="workflow_id run_id activity_id details identity",
        never={"deployment_options": DEPLOYMENTS, "resource_id": ROUTING},
        whole=(rules.own_activity,),
    ),
)

_OF_A_WORKFLOW: Final = (
    Shape(
        PauseActivityRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
        free="identity id type reason request_id",
    ),
    Shape(
        UnpauseActivityRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
        free="identity id type unpause_all reset_attempts reset_heartbeat jitter",
    ),
    Shape(
        ResetActivityRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
        free="identity id type match_all reset_heartbeat keep_paused jitter"
        " restore_original_options",
    ),
    Shape(
        UpdateActivityOptionsRequest,
        must={"namespace": rules.own_namespace, "execution": INSIDE},
        free="identity activity_options update_mask id type match_all restore_original",
        whole=(rules.changed_options,),
    ),
)

ACTIVITIES: Final[Sequence[Shape]] = (*_STANDALONE, *_OF_EITHER_KIND, *_OF_A_WORKFLOW)
"""Shapes of the requests about activities."""


_CARRIES_THE_TENANT: Final = (
    Shape(Header, must={"fields": rules.tenant_header}),
    Shape(Memo, must={"fields": rules.tenant_memo}),
    Shape(SearchAttributes, must={"indexed_fields": rules.tenant_attribute}),
    Shape(
        Priority,
        must={
            "priority_key": rules.granted_priority,
            "fairness_key": rules.fair_key,
            "fairness_weight": rules.granted_weight,
        },
    ),
)

_NAMES_SOMETHING: Final = (
    Shape(WorkflowExecution, must={"workflow_id": rules.own_id}, free="run_id"),
    Shape(UpdateRef, must={"workflow_execution": rules.scoped_execution}, free="update_id"),
    Shape(
        TaskQueue,
        must={"name": rules.granted_queue, "kind": rules.normal_queue},
        never={"normal_name": "only sticky queues have it"},
    ),
    Shape(
        Link,
        opaque="workflow_event batch_job activity nexus_operation workflow callback",
        whole=(rules.of_nexus_task,),
    ),
    Shape(
        Callback,
        free="nexus links",
        never={
            "internal": "it completes any execution of the cluster",
            "nexus_handler": "it calls a handler of another task queue",
        },
        whole=(rules.completes_nexus_task,),
    ),
)

_WITH_A_HEADER: Final = (
    Shape(WorkflowQuery, must={"header": INSIDE}, free="query_type query_args"),
    Shape(Input, must={"header": INSIDE}, free="name args"),
    Shape(
        Request,
        must={"input": INSIDE},
        free="meta request_id completion_callbacks links",
        never={"propagated_nexus_serialization_context": "only the server sets it"},
    ),
)

_NEXUS: Final = (
    Shape(
        OnConflictOptions,
        free="attach_request_id attach_completion_callbacks attach_links",
        whole=(rules.in_nexus_task,),
    ),
    Shape(
        WorkflowOnConflictOptions,
        free="attach_request_id attach_completion_callbacks attach_links",
        whole=(rules.in_nexus_task,),
    ),
    Shape(Callback.Nexus, free="url header"),
)

_VALUES: Final = (
    Shape(ActivityType, free="name"),
    Shape(WorkflowType, free="name"),
    Shape(Duration, free="seconds nanos"),
    Shape(Timestamp, free="seconds nanos"),
    Shape(FieldMask, free="paths"),
    Shape(Payload, free="metadata data external_payloads"),
    Shape(Payload.ExternalPayloadDetails, free="size_bytes"),
    Shape(Payloads, free="payloads"),
    Shape(UserMetadata, free="summary details"),
    Shape(Meta, free="update_id identity"),
    Shape(WaitPolicy, free="lifecycle_stage"),
    Shape(
        RetryPolicy,
        free="initial_interval backoff_coefficient maximum_interval maximum_attempts"
        " non_retryable_error_types",
    ),
    Shape(
        TimeSkippingConfig,
        free="enabled fast_forward_config disable_propagation max_session_skip_count",
    ),
    Shape(FastForwardConfig, free="id duration"),
    Shape(
        ActivityOptions,
        free="task_queue schedule_to_close_timeout schedule_to_start_timeout"
        " start_to_close_timeout heartbeat_timeout retry_policy priority start_delay",
    ),
)

# What a failure says about others is only told to who reads it; nothing acts on it.
_FAILURES: Final = (
    Shape(
        Failure,
        free="message source stack_trace encoded_attributes cause application_failure_info"
        " timeout_failure_info canceled_failure_info terminated_failure_info server_failure_info"
        " reset_workflow_failure_info activity_failure_info child_workflow_execution_failure_info"
        " nexus_operation_execution_failure_info nexus_handler_failure_info",
    ),
    Shape(ApplicationFailureInfo, free="type non_retryable details next_retry_delay category"),
    Shape(TimeoutFailureInfo, free="timeout_type last_heartbeat_details"),
    Shape(CanceledFailureInfo, free="details identity"),
    Shape(TerminatedFailureInfo, free="identity"),
    Shape(ServerFailureInfo, free="non_retryable"),
    Shape(ResetWorkflowFailureInfo, free="last_heartbeat_details"),
    Shape(
        ActivityFailureInfo,
        free="scheduled_event_id started_event_id identity activity_type activity_id retry_state",
    ),
    Shape(
        ChildWorkflowExecutionFailureInfo,
        free="namespace workflow_type initiated_event_id started_event_id retry_state",
        opaque="workflow_execution",
    ),
    Shape(
        NexusOperationFailureInfo,
        free="scheduled_event_id endpoint service operation operation_id operation_token",
    ),
    Shape(NexusHandlerFailureInfo, free="type retry_behavior"),
)

PARTS: Final[Sequence[Shape]] = (
    *_CARRIES_THE_TENANT,
    *_NAMES_SOMETHING,
    *_WITH_A_HEADER,
    *_NEXUS,
    *_VALUES,
    *_FAILURES,
)
"""Shapes of the messages that requests are made of."""


SHAPES: Final[Mapping[str, Shape]] = {
    shape.message.DESCRIPTOR.full_name: shape
    for shape in (*WORKFLOWS, *SCHEDULES, *ACTIVITIES, *PARTS)
}
"""The shape of each message that a tenant's request may hold."""
