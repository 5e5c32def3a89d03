"""Shapes of the requests about workflows."""

from collections.abc import Sequence
from typing import Final

from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DeleteWorkflowExecutionRequest,
    DescribeNamespaceRequest,
    DescribeWorkflowExecutionRequest,
    ExecuteMultiOperationRequest,
    GetClusterInfoRequest,
    GetSystemInfoRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    ListWorkflowExecutionsRequest,
    PauseWorkflowExecutionRequest,
    PollWorkflowExecutionUpdateRequest,
    QueryWorkflowRequest,
    RequestCancelWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    UnpauseWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)
from temporalio.bridge.proto.health.v1 import HealthCheckRequest

from orkestra.temporal.guard import rules
from orkestra.temporal.guard.shape import INSIDE, Shape

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
