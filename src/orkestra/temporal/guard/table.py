"""The table of what tenants may call, and what their requests may hold.

One row for each RPC that tenants may call: its request, the rule of every field, its ownership pin
and its response rule. A new RPC is one row here or one word in `_DENIED`; a new field is one word
in the row of its message. Tests compare the table with the SDK's services and messages, so
whatever nothing is decided about is refused, and fails the tests of the next SDK.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common import v1 as common
from temporalio.api.failure import v1 as failure
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.schedule import v1 as schedule
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update import v1 as update
from temporalio.api.workflow.v1 import NewWorkflowExecutionInfo
from temporalio.api.workflow.v1 import OnConflictOptions as WorkflowOnConflictOptions
from temporalio.api.workflowservice import v1 as api

from orkestra.temporal._sdk import HealthCheckRequest
from orkestra.temporal.guard import ownership, rules
from orkestra.temporal.guard.ownership import Pin, PinExecution
from orkestra.temporal.guard.rules import ResponseRule, Rule, own_namespace, own_rows


@final
class Nested:
    """Type of `NESTED`."""

    __slots__ = ()


NESTED: Final = Nested()
"""Rule of a field whose message is checked by its own rules, even where the field is not set."""


@dataclass(frozen=True)
class MessageRules:
    """Decisions about every field of a message; a field that is not listed is refused.

    Attributes:
        message: The message.
        checked: Fields with the rule that holds for them, set or not.
        allowed: Names of fields that may have any value; messages in them follow their own rules.
        unchecked: Names of fields that may hold anything, because nothing acts on it or a rule
            compares it whole.
        forbidden: Fields that are refused when they are set, with the reason.
        whole: Rules for the message as a whole.
    """

    message: type[Message]
    checked: Mapping[str, Rule | Nested] = field(default_factory=dict[str, Rule | Nested])
    allowed: str = ""
    unchecked: str = ""
    forbidden: Mapping[str, str] = field(default_factory=dict[str, str])
    whole: tuple[Rule, ...] = ()

    @property
    def decided(self) -> list[str]:
        """Names of the fields that it lists, with those that it lists twice."""
        return [*self.checked, *self.allowed.split(), *self.unchecked.split(), *self.forbidden]


@dataclass(frozen=True, kw_only=True)
class Allowed(MessageRules):
    """Row of an RPC that tenants may call with a request that keeps its rules.

    Attributes:
        pin: Holds the request to the tenant's executions where IDs are global; None where it
            names none. It has no default, so that no row forgets it.
        response: Rule for the response.
        needs_tenant: Whether it can only be called for a tenant.
    """

    pin: Pin | None
    response: ResponseRule | None = None
    needs_tenant: bool = True


@dataclass(frozen=True)
class Denied:
    """Row of an RPC, or of a whole service, that only operators may call.

    Attributes:
        reason: The end of a sentence.
    """

    reason: str
    pin: ClassVar[None] = None
    response: ClassVar[None] = None
    needs_tenant: ClassVar[bool] = True


_DEPLOYMENTS: Final = "worker versions are managed by the operator"
_SERVER_ONLY: Final = "only the server sets it"
_DEPRECATED: Final = "it is deprecated and no SDK sets it"
_ROUTING: Final = {"resource_id": "it routes the request past the ID in it"}

_NAMESPACE: Final[Mapping[str, Rule | Nested]] = {"namespace": own_namespace}
_EXECUTION: Final = {**_NAMESPACE, "execution": NESTED}
_WORKFLOW_EXECUTION: Final = {**_NAMESPACE, "workflow_execution": NESTED}
_WORKFLOW_ID: Final = {**_NAMESPACE, "workflow_id": rules.own_id}
_SCHEDULE_ID: Final = {**_NAMESPACE, "schedule_id": rules.own_id}
_ACTIVITY_ID: Final = {**_NAMESPACE, "activity_id": rules.own_id}
_WORKFLOW_QUERY: Final = {**_NAMESPACE, "query": rules.scoped_query("WorkflowId")}
_SCHEDULE_QUERY: Final = {**_NAMESPACE, "query": rules.scoped_query("ScheduleId")}
_ACTIVITY_QUERY: Final = {**_NAMESPACE, "query": rules.scoped_query("ActivityId")}
_TENANT: Final[Mapping[str, Nested]] = {
    "header": NESTED,
    "search_attributes": NESTED,
    "priority": NESTED,
}

_WORKFLOWS: Final[Mapping[str, Allowed]] = {
    "start_workflow_execution": Allowed(
        api.StartWorkflowExecutionRequest,
        checked={**_WORKFLOW_ID, **_TENANT},
        allowed="workflow_type task_queue input workflow_execution_timeout workflow_run_timeout"
        " workflow_task_timeout identity request_id workflow_id_reuse_policy"
        " workflow_id_conflict_policy retry_policy cron_schedule memo request_eager_execution"
        " workflow_start_delay user_metadata time_skipping_config"
        " completion_callbacks links on_conflict_options",
        forbidden={
            "continued_failure": _SERVER_ONLY,
            "last_completion_result": _SERVER_ONLY,
            "versioning_override": _DEPLOYMENTS,
            "eager_worker_deployment_options": _DEPLOYMENTS,
            "propagated_nexus_serialization_context": _SERVER_ONLY,
        },
        pin=ownership.check_start,
    ),
    "signal_with_start_workflow_execution": Allowed(
        api.SignalWithStartWorkflowExecutionRequest,
        checked={**_WORKFLOW_ID, **_TENANT},
        allowed="workflow_type task_queue input workflow_execution_timeout workflow_run_timeout"
        " workflow_task_timeout identity request_id workflow_id_reuse_policy"
        " workflow_id_conflict_policy signal_name signal_input retry_policy cron_schedule memo"
        " workflow_start_delay user_metadata time_skipping_config links",
        forbidden={"control": _DEPRECATED, "versioning_override": _DEPLOYMENTS},
        pin=ownership.check_signal_with_start,
    ),
    "execute_multi_operation": Allowed(
        api.ExecuteMultiOperationRequest,
        checked=_NAMESPACE,
        allowed="operations",
        forbidden=_ROUTING,
        pin=ownership.check_update_with_start,
    ),
    "signal_workflow_execution": Allowed(
        api.SignalWorkflowExecutionRequest,
        checked={**_WORKFLOW_EXECUTION, "header": NESTED},
        allowed="signal_name input identity request_id links",
        forbidden={"control": _DEPRECATED},
        pin=PinExecution("workflow_execution"),
    ),
    "query_workflow": Allowed(
        api.QueryWorkflowRequest,
        checked={**_EXECUTION, "query": NESTED},
        allowed="query_reject_condition",
        pin=PinExecution("execution"),
    ),
    "update_workflow_execution": Allowed(
        api.UpdateWorkflowExecutionRequest,
        checked={**_WORKFLOW_EXECUTION, "request": NESTED},
        allowed="first_execution_run_id wait_policy",
        pin=PinExecution("workflow_execution", by_chain=True),
    ),
    "poll_workflow_execution_update": Allowed(
        api.PollWorkflowExecutionUpdateRequest,
        checked={**_NAMESPACE, "update_ref": NESTED},
        allowed="identity wait_policy",
        pin=PinExecution("update_ref.workflow_execution"),
    ),
    "request_cancel_workflow_execution": Allowed(
        api.RequestCancelWorkflowExecutionRequest,
        checked=_WORKFLOW_EXECUTION,
        allowed="identity request_id first_execution_run_id reason links",
        pin=PinExecution("workflow_execution", by_chain=True),
    ),
    "terminate_workflow_execution": Allowed(
        api.TerminateWorkflowExecutionRequest,
        checked=_WORKFLOW_EXECUTION,
        allowed="reason details identity first_execution_run_id links",
        pin=PinExecution("workflow_execution", by_chain=True),
    ),
    "delete_workflow_execution": Allowed(
        api.DeleteWorkflowExecutionRequest,
        checked=_WORKFLOW_EXECUTION,
        pin=PinExecution("workflow_execution"),
    ),
    "describe_workflow_execution": Allowed(
        api.DescribeWorkflowExecutionRequest, checked=_EXECUTION, pin=PinExecution("execution")
    ),
    "reset_workflow_execution": Allowed(
        api.ResetWorkflowExecutionRequest,
        checked=_WORKFLOW_EXECUTION,
        allowed="reason workflow_task_finish_event_id request_id reset_reapply_type"
        " reset_reapply_exclude_types identity",
        forbidden={"post_reset_operations": "signals among them carry no checked tenant"},
        pin=PinExecution("workflow_execution"),
    ),
    "pause_workflow_execution": Allowed(
        api.PauseWorkflowExecutionRequest,
        checked=_WORKFLOW_ID,
        allowed="run_id identity reason request_id",
        pin=PinExecution(),
    ),
    "unpause_workflow_execution": Allowed(
        api.UnpauseWorkflowExecutionRequest,
        checked=_WORKFLOW_ID,
        allowed="run_id identity reason request_id",
        pin=PinExecution(),
    ),
    # The server refuses page tokens of another run, forged ones too; a test holds it to that.
    "get_workflow_execution_history": Allowed(
        api.GetWorkflowExecutionHistoryRequest,
        checked=_EXECUTION,
        allowed="maximum_page_size next_page_token wait_new_event history_event_filter_type"
        " skip_archival",
        pin=ownership.pin_history,
    ),
    "get_workflow_execution_history_reverse": Allowed(
        api.GetWorkflowExecutionHistoryReverseRequest,
        checked=_EXECUTION,
        allowed="maximum_page_size next_page_token",
        pin=ownership.pin_history,
    ),
    "list_workflow_executions": Allowed(
        api.ListWorkflowExecutionsRequest,
        checked=_WORKFLOW_QUERY,
        allowed="page_size next_page_token",
        pin=None,
        response=own_rows("executions", "execution.workflow_id"),
    ),
    "count_workflow_executions": Allowed(
        api.CountWorkflowExecutionsRequest, checked=_WORKFLOW_QUERY, pin=None
    ),
}

_SCHEDULES: Final[Mapping[str, Allowed]] = {
    "create_schedule": Allowed(
        api.CreateScheduleRequest,
        checked={**_SCHEDULE_ID, "schedule": NESTED, "search_attributes": NESTED},
        allowed="initial_patch identity request_id memo",
        pin=ownership.check_new_schedule,
    ),
    # Without search attributes and memo, those of the schedule stay as they are.
    "update_schedule": Allowed(
        api.UpdateScheduleRequest,
        checked={**_SCHEDULE_ID, "schedule": NESTED},
        allowed="conflict_token identity request_id search_attributes memo",
        pin=ownership.check_schedule_update,
    ),
    "patch_schedule": Allowed(
        api.PatchScheduleRequest,
        checked=_SCHEDULE_ID,
        allowed="patch identity request_id",
        pin=ownership.check_schedule,
    ),
    "describe_schedule": Allowed(
        api.DescribeScheduleRequest, checked=_SCHEDULE_ID, pin=ownership.check_schedule
    ),
    "delete_schedule": Allowed(
        api.DeleteScheduleRequest,
        checked=_SCHEDULE_ID,
        allowed="identity",
        pin=ownership.check_schedule,
    ),
    "list_schedule_matching_times": Allowed(
        api.ListScheduleMatchingTimesRequest,
        checked=_SCHEDULE_ID,
        allowed="start_time end_time",
        pin=ownership.check_schedule,
    ),
    "list_schedules": Allowed(
        api.ListSchedulesRequest,
        checked=_SCHEDULE_QUERY,
        allowed="maximum_page_size next_page_token",
        pin=None,
        response=own_rows("schedules", "schedule_id"),
    ),
    "count_schedules": Allowed(api.CountSchedulesRequest, checked=_SCHEDULE_QUERY, pin=None),
}

_STANDALONE_ACTIVITIES: Final[Mapping[str, Allowed]] = {
    "start_activity_execution": Allowed(
        api.StartActivityExecutionRequest,
        checked={**_ACTIVITY_ID, **_TENANT},
        allowed="identity request_id activity_type task_queue schedule_to_close_timeout"
        " schedule_to_start_timeout start_to_close_timeout heartbeat_timeout retry_policy input"
        " id_reuse_policy id_conflict_policy user_metadata start_delay"
        " completion_callbacks links on_conflict_options",
        forbidden={
            "propagated_nexus_serialization_context": _SERVER_ONLY,
            "request_eager_execution": "its answer is a task, which is a worker's",
        },
        pin=ownership.check_activity_start,
    ),
    # The SDK polls without its interceptors, with the ID as the caller wrote it (T65).
    "poll_activity_execution": Allowed(
        api.PollActivityExecutionRequest,
        checked={**_NAMESPACE, "activity_id": rules.scoped_id},
        allowed="run_id",
        pin=ownership.pin_activity,
    ),
    "describe_activity_execution": Allowed(
        api.DescribeActivityExecutionRequest,
        checked=_ACTIVITY_ID,
        allowed="run_id include_input include_outcome include_heartbeat_details"
        " include_last_failure",
        forbidden={"long_poll_token": "it refers to an execution past the ID in the request"},
        pin=ownership.pin_activity,
    ),
    "request_cancel_activity_execution": Allowed(
        api.RequestCancelActivityExecutionRequest,
        checked=_ACTIVITY_ID,
        allowed="run_id identity request_id reason",
        pin=ownership.pin_activity,
    ),
    "terminate_activity_execution": Allowed(
        api.TerminateActivityExecutionRequest,
        checked=_ACTIVITY_ID,
        allowed="run_id identity request_id reason",
        pin=ownership.pin_activity,
    ),
    "delete_activity_execution": Allowed(
        api.DeleteActivityExecutionRequest,
        checked=_ACTIVITY_ID,
        allowed="run_id",
        pin=ownership.pin_activity,
    ),
    "list_activity_executions": Allowed(
        api.ListActivityExecutionsRequest,
        checked=_ACTIVITY_QUERY,
        allowed="page_size next_page_token",
        pin=None,
        response=own_rows("executions", "activity_id"),
    ),
    "count_activity_executions": Allowed(
        api.CountActivityExecutionsRequest, checked=_ACTIVITY_QUERY, pin=None
    ),
}


def _of_either_kind(
    request: type[Message],
    allowed: str,
    *,
    forbidden: Mapping[str, str] = _ROUTING,
    whole: tuple[Rule, ...] = (rules.own_activity,),
) -> Allowed:
    """Row of a request about an activity of a workflow, or about a standalone one."""
    return Allowed(
        request,
        checked=_NAMESPACE,
        allowed=allowed,
        forbidden=forbidden,
        whole=whole,
        pin=ownership.pin_any_activity,
    )


_ACTIVITIES_OF_EITHER_KIND: Final[Mapping[str, Allowed]] = {
    "pause_activity_execution": _of_either_kind(
        api.PauseActivityExecutionRequest,
        "workflow_id activity_id run_id identity reason request_id",
    ),
    "unpause_activity_execution": _of_either_kind(
        api.UnpauseActivityExecutionRequest,
        "workflow_id activity_id run_id identity reason jitter request_id",
    ),
    "reset_activity_execution": _of_either_kind(
        api.ResetActivityExecutionRequest,
        "workflow_id activity_id run_id identity keep_paused jitter restore_original_options"
        " request_id reset_heartbeat",
    ),
    "update_activity_execution_options": _of_either_kind(
        api.UpdateActivityExecutionOptionsRequest,
        "workflow_id activity_id run_id identity activity_options update_mask restore_original"
        " request_id",
        whole=(rules.own_activity, rules.changed_options),
    ),
    "record_activity_task_heartbeat_by_id": _of_either_kind(
        api.RecordActivityTaskHeartbeatByIdRequest,
        "workflow_id run_id activity_id details identity",
    ),
    "respond_activity_task_completed_by_id": _of_either_kind(
        api.RespondActivityTaskCompletedByIdRequest,
        "workflow_id run_id activity_id result identity",
    ),
    "respond_activity_task_failed_by_id": _of_either_kind(
        api.RespondActivityTaskFailedByIdRequest,
        "workflow_id run_id activity_id failure identity last_heartbeat_details cause",
    ),
    "respond_activity_task_canceled_by_id": _of_either_kind(
        api.RespondActivityTaskCanceledByIdRequest,
        "workflow_id run_id activity_id details identity",
        forbidden={"deployment_options": _DEPLOYMENTS, **_ROUTING},
    ),
}

_ACTIVITIES_OF_A_WORKFLOW: Final[Mapping[str, Allowed]] = {
    "pause_activity": Allowed(
        api.PauseActivityRequest,
        checked=_EXECUTION,
        allowed="identity id type reason request_id",
        pin=PinExecution("execution"),
    ),
    "unpause_activity": Allowed(
        api.UnpauseActivityRequest,
        checked=_EXECUTION,
        allowed="identity id type unpause_all reset_attempts reset_heartbeat jitter",
        pin=PinExecution("execution"),
    ),
    "reset_activity": Allowed(
        api.ResetActivityRequest,
        checked=_EXECUTION,
        allowed="identity id type match_all reset_heartbeat keep_paused jitter"
        " restore_original_options",
        pin=PinExecution("execution"),
    ),
    "update_activity_options": Allowed(
        api.UpdateActivityOptionsRequest,
        checked=_EXECUTION,
        allowed="identity activity_options update_mask id type match_all restore_original",
        whole=(rules.changed_options,),
        pin=PinExecution("execution"),
    ),
}

_SERVER: Final[Mapping[str, Allowed]] = {
    "describe_namespace": Allowed(
        api.DescribeNamespaceRequest,
        checked=_NAMESPACE,
        allowed="weak_consistency",
        forbidden={"id": "the namespace is named by its name"},
        pin=None,
        response=rules.namespace_outline,
        needs_tenant=False,
    ),
    "get_cluster_info": Allowed(api.GetClusterInfoRequest, pin=None, needs_tenant=False),
    "get_system_info": Allowed(api.GetSystemInfoRequest, pin=None, needs_tenant=False),
}

_DENIED: Final[Mapping[str, str]] = {
    "batch operations do not ask whose each execution is": "describe_batch_operation"
    " list_batch_operations start_batch_operation stop_batch_operation",
    "it cannot filter by tenant: use list_workflow_executions": "list_closed_workflow_executions"
    " list_open_workflow_executions",
    "its page token may hold another query: use list_workflow_executions": (
        "scan_workflow_executions"
    ),
    "it lists the search attributes of the cluster": "get_search_attributes",
    "namespaces are managed by the operator": "deprecate_namespace list_namespaces"
    " register_namespace update_namespace",
    "Nexus endpoints may lead into any namespace, and nothing carries the tenant": (
        "count_nexus_operation_executions delete_nexus_operation_execution"
        " describe_nexus_operation_execution list_nexus_operation_executions"
        " poll_nexus_operation_execution request_cancel_nexus_operation_execution"
        " start_nexus_operation_execution terminate_nexus_operation_execution"
    ),
    "only test environments skip time": "poll_workflow_execution_time_skipping",
    "only workers, which serve all tenants, take tasks and answer them": "poll_activity_task_queue"
    " poll_nexus_task_queue poll_workflow_task_queue respond_nexus_task_completed"
    " respond_nexus_task_failed respond_query_task_completed respond_workflow_task_completed"
    " respond_workflow_task_failed",
    "queries of the archive cannot be limited to a tenant": "list_archived_workflow_executions",
    "task queues serve other tenants, too": "describe_task_queue list_task_queue_partitions"
    " reset_sticky_task_queue update_task_queue_config",
    # B2
    "a task token does not name its tenant, and can be forged: complete the activity by workflow"
    " ID, run ID and activity ID": "record_activity_task_heartbeat respond_activity_task_canceled"
    " respond_activity_task_completed respond_activity_task_failed",
    "versions, priority and clock of a running workflow are managed by the operator": (
        "update_workflow_execution_options"
    ),
    _DEPLOYMENTS: "create_worker_deployment create_worker_deployment_version"
    " delete_worker_deployment delete_worker_deployment_version describe_deployment"
    " describe_worker_deployment describe_worker_deployment_version get_current_deployment"
    " get_deployment_reachability get_worker_build_id_compatibility"
    " get_worker_task_reachability get_worker_versioning_rules list_deployments"
    " list_worker_deployments set_current_deployment set_worker_deployment_current_version"
    " set_worker_deployment_manager set_worker_deployment_ramping_version"
    " update_worker_build_id_compatibility update_worker_deployment_version_compute_config"
    " update_worker_deployment_version_metadata update_worker_versioning_rules"
    " validate_worker_deployment_version_compute_config",
    "workers serve other tenants, too": "count_workers describe_worker fetch_worker_config"
    " list_workers record_worker_heartbeat shutdown_worker update_worker_config",
    "workflow rules act on all tenants' workflows": "create_workflow_rule delete_workflow_rule"
    " describe_workflow_rule list_workflow_rules trigger_workflow_rule",
}
"""RPCs that only operators may call, by the reason."""

RPCS: Final[Mapping[str, Allowed | Denied]] = {
    **_WORKFLOWS,
    **_SCHEDULES,
    **_STANDALONE_ACTIVITIES,
    **_ACTIVITIES_OF_EITHER_KIND,
    **_ACTIVITIES_OF_A_WORKFLOW,
    **_SERVER,
    **{rpc: Denied(reason) for reason, rpcs in _DENIED.items() for rpc in rpcs.split()},
}
"""RPCs of the workflow service."""

SERVICES: Final[Mapping[str, Mapping[str, Allowed | Denied] | Denied]] = {
    "workflow": RPCS,
    "operator": Denied("search attributes, namespaces, clusters and endpoints are the operator's"),
    "cloud": Denied("the Temporal Cloud account is managed by the operator"),
    "test": Denied("all tenants share the clock of a test server"),
    "health": {
        "check": Allowed(HealthCheckRequest, allowed="service", pin=None, needs_tenant=False)
    },
}
"""RPCs by the name that the SDK gives their service."""

_WITH_TENANT: Final = (
    MessageRules(common.Header, checked={"fields": rules.tenant_header}),
    MessageRules(common.Memo, checked={"fields": rules.tenant_memo}),
    MessageRules(common.SearchAttributes, checked={"indexed_fields": rules.tenant_attribute}),
    MessageRules(
        common.Priority,
        allowed="priority_key fairness_key fairness_weight",
        whole=(rules.granted_priority,),
    ),
    MessageRules(WorkflowQuery, checked={"header": NESTED}, allowed="query_type query_args"),
    MessageRules(update.Input, checked={"header": NESTED}, allowed="name args"),
    MessageRules(
        update.Request,
        checked={"input": NESTED},
        allowed="meta request_id completion_callbacks links",
        forbidden={"propagated_nexus_serialization_context": _SERVER_ONLY},
    ),
)

_WITH_IDS: Final = (
    MessageRules(
        api.ExecuteMultiOperationRequest.Operation, allowed="start_workflow update_workflow"
    ),
    MessageRules(common.WorkflowExecution, checked={"workflow_id": rules.own_id}, allowed="run_id"),
    MessageRules(
        update.UpdateRef,
        checked={"workflow_execution": rules.scoped_execution},
        allowed="update_id",
    ),
    MessageRules(
        TaskQueue,
        allowed="name kind",
        forbidden={"normal_name": "only sticky queues have it"},
        whole=(rules.granted_queue,),
    ),
    MessageRules(
        common.Link,
        unchecked="workflow_event batch_job activity nexus_operation workflow callback",
        whole=(rules.of_nexus_task,),
    ),
    MessageRules(
        common.Callback,
        allowed="nexus links",
        forbidden={
            "internal": "it completes any execution of the cluster",
            "nexus_handler": "it calls a handler of another task queue",
        },
        whole=(rules.completes_nexus_task,),
    ),
    MessageRules(common.Callback.Nexus, allowed="url header"),
    MessageRules(
        common.OnConflictOptions,
        allowed="attach_request_id attach_completion_callbacks attach_links",
        whole=(rules.in_nexus_task,),
    ),
    MessageRules(
        WorkflowOnConflictOptions,
        allowed="attach_request_id attach_completion_callbacks attach_links",
        whole=(rules.in_nexus_task,),
    ),
)

# The workflow that a schedule starts has the rules of a start.
_OF_SCHEDULES: Final = (
    MessageRules(schedule.Schedule, checked={"action": NESTED}, allowed="spec policies state"),
    MessageRules(schedule.ScheduleAction, checked={"start_workflow": NESTED}),
    MessageRules(
        NewWorkflowExecutionInfo,
        checked={"workflow_id": rules.own_id, **_TENANT},
        allowed="workflow_type task_queue input workflow_execution_timeout workflow_run_timeout"
        " workflow_task_timeout workflow_id_reuse_policy retry_policy cron_schedule memo"
        " user_metadata",
        forbidden={"versioning_override": _DEPLOYMENTS},
    ),
    MessageRules(
        schedule.ScheduleSpec,
        allowed="structured_calendar cron_string calendar interval exclude_calendar"
        " exclude_structured_calendar start_time end_time jitter timezone_name",
        forbidden={"timezone_data": _SERVER_ONLY},
    ),
    MessageRules(
        schedule.StructuredCalendarSpec,
        allowed="second minute hour day_of_month month year day_of_week comment",
    ),
    MessageRules(
        schedule.CalendarSpec,
        allowed="second minute hour day_of_month month year day_of_week comment",
    ),
    MessageRules(schedule.IntervalSpec, allowed="interval phase"),
    MessageRules(schedule.Range, allowed="start end step"),
    MessageRules(
        schedule.SchedulePolicies,
        allowed="overlap_policy catchup_window pause_on_failure keep_original_workflow_id",
    ),
    MessageRules(schedule.ScheduleState, allowed="notes paused limited_actions remaining_actions"),
    MessageRules(
        schedule.SchedulePatch, allowed="trigger_immediately backfill_request pause unpause"
    ),
    MessageRules(schedule.TriggerImmediatelyRequest, allowed="overlap_policy scheduled_time"),
    MessageRules(schedule.BackfillRequest, allowed="start_time end_time overlap_policy"),
)

_VALUES: Final = (
    MessageRules(common.ActivityType, allowed="name"),
    MessageRules(common.WorkflowType, allowed="name"),
    MessageRules(Duration, allowed="seconds nanos"),
    MessageRules(Timestamp, allowed="seconds nanos"),
    MessageRules(FieldMask, allowed="paths"),
    MessageRules(common.Payload, allowed="metadata data external_payloads"),
    MessageRules(common.Payload.ExternalPayloadDetails, allowed="size_bytes"),
    MessageRules(common.Payloads, allowed="payloads"),
    MessageRules(UserMetadata, allowed="summary details"),
    MessageRules(update.Meta, allowed="update_id identity"),
    MessageRules(update.WaitPolicy, allowed="lifecycle_stage"),
    MessageRules(
        common.RetryPolicy,
        allowed="initial_interval backoff_coefficient maximum_interval maximum_attempts"
        " non_retryable_error_types",
    ),
    MessageRules(
        common.TimeSkippingConfig,
        allowed="enabled fast_forward_config disable_propagation max_session_skip_count",
    ),
    MessageRules(common.FastForwardConfig, allowed="id duration"),
    MessageRules(
        ActivityOptions,
        allowed="task_queue schedule_to_close_timeout schedule_to_start_timeout"
        " start_to_close_timeout heartbeat_timeout retry_policy priority start_delay",
    ),
)

# Failures may name other executions: they are only shown to readers, and nothing acts on them.
_FAILURES: Final = (
    MessageRules(
        failure.Failure,
        allowed="message source stack_trace encoded_attributes cause application_failure_info"
        " timeout_failure_info canceled_failure_info terminated_failure_info server_failure_info"
        " reset_workflow_failure_info activity_failure_info child_workflow_execution_failure_info"
        " nexus_operation_execution_failure_info nexus_handler_failure_info",
    ),
    MessageRules(
        failure.ApplicationFailureInfo,
        allowed="type non_retryable details next_retry_delay category",
    ),
    MessageRules(failure.TimeoutFailureInfo, allowed="timeout_type last_heartbeat_details"),
    MessageRules(failure.CanceledFailureInfo, allowed="details identity"),
    MessageRules(failure.TerminatedFailureInfo, allowed="identity"),
    MessageRules(failure.ServerFailureInfo, allowed="non_retryable"),
    MessageRules(failure.ResetWorkflowFailureInfo, allowed="last_heartbeat_details"),
    MessageRules(
        failure.ActivityFailureInfo,
        allowed="scheduled_event_id started_event_id identity activity_type activity_id"
        " retry_state",
    ),
    MessageRules(
        failure.ChildWorkflowExecutionFailureInfo,
        allowed="namespace workflow_type initiated_event_id started_event_id retry_state",
        unchecked="workflow_execution",
    ),
    MessageRules(
        failure.NexusOperationFailureInfo,
        allowed="scheduled_event_id endpoint service operation operation_id operation_token",
    ),
    MessageRules(failure.NexusHandlerFailureInfo, allowed="type retry_behavior"),
)

MESSAGES: Final[Mapping[str, MessageRules]] = {
    row.message.DESCRIPTOR.full_name: row
    for row in (
        *(
            row
            for rows in SERVICES.values()
            if not isinstance(rows, Denied)
            for row in rows.values()
        ),
        *_WITH_TENANT,
        *_WITH_IDS,
        *_OF_SCHEDULES,
        *_VALUES,
        *_FAILURES,
    )
    if not isinstance(row, Denied)
}
"""Rules of each message that a tenant's request may hold, by its full name."""
