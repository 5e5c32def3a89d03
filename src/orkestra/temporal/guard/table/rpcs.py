"""One row for each RPC of the workflow service, and one for each other service."""

from collections.abc import Mapping
from typing import Final

from temporalio.api.workflowservice import v1 as api
from temporalio.bridge.proto.health.v1 import HealthCheckRequest

from orkestra.temporal.guard.responses import namespace_outline, own_rows
from orkestra.temporal.guard.shape import Allowed, Denied

_ARCHIVE: Final = Denied("the archive's query language cannot be held inside a tenant")
_ATTRIBUTES: Final = Denied("it lists the search attributes of the cluster")
_BATCHES: Final = Denied("the server works a batch off without asking whose each execution is")
_FILTERS: Final = Denied("it cannot filter by tenant: use list_workflow_executions")
_NAMESPACES: Final = Denied("namespaces are the operator's")
_NEXUS: Final = Denied("an endpoint may lead into any namespace, and nothing carries the tenant")
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
    "count_nexus_operation_executions": _NEXUS,
    "count_schedules": Allowed(api.CountSchedulesRequest),
    "count_workers": _WORKERS,
    "count_workflow_executions": Allowed(api.CountWorkflowExecutionsRequest),
    "create_schedule": Allowed(api.CreateScheduleRequest),
    "create_worker_deployment": _VERSIONS,
    "create_worker_deployment_version": _VERSIONS,
    "create_workflow_rule": _RULES,
    "delete_activity_execution": Allowed(api.DeleteActivityExecutionRequest),
    "delete_nexus_operation_execution": _NEXUS,
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
    "describe_nexus_operation_execution": _NEXUS,
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
    "list_nexus_operation_executions": _NEXUS,
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
    "poll_nexus_operation_execution": _NEXUS,
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
    "request_cancel_nexus_operation_execution": _NEXUS,
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
    "start_nexus_operation_execution": _NEXUS,
    "start_workflow_execution": Allowed(api.StartWorkflowExecutionRequest),
    "stop_batch_operation": _BATCHES,
    "terminate_activity_execution": Allowed(api.TerminateActivityExecutionRequest),
    "terminate_nexus_operation_execution": _NEXUS,
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
