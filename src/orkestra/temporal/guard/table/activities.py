"""Shapes of the requests about activities: standalone ones, and by ID those of a workflow."""

from collections.abc import Sequence
from typing import Final

from temporalio.api.workflowservice.v1 import (
    CountActivityExecutionsRequest,
    DeleteActivityExecutionRequest,
    DescribeActivityExecutionRequest,
    ListActivityExecutionsRequest,
    PauseActivityExecutionRequest,
    PauseActivityRequest,
    PollActivityExecutionRequest,
    RecordActivityTaskHeartbeatByIdRequest,
    RequestCancelActivityExecutionRequest,
    ResetActivityExecutionRequest,
    ResetActivityRequest,
    RespondActivityTaskCanceledByIdRequest,
    RespondActivityTaskCompletedByIdRequest,
    RespondActivityTaskFailedByIdRequest,
    StartActivityExecutionRequest,
    TerminateActivityExecutionRequest,
    UnpauseActivityExecutionRequest,
    UnpauseActivityRequest,
    UpdateActivityExecutionOptionsRequest,
    UpdateActivityOptionsRequest,
)

from orkestra.temporal.guard import rules
from orkestra.temporal.guard.shape import INSIDE, Shape
from orkestra.temporal.guard.table.workflows import DEPLOYMENTS, ROUTING, SERVER_ONLY

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
