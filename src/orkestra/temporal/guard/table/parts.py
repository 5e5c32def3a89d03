"""Shapes of the messages that requests are made of."""

from collections.abc import Sequence
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
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, UpdateRef, WaitPolicy
from temporalio.api.workflow.v1 import OnConflictOptions as WorkflowOnConflictOptions

from orkestra.temporal.guard import rules
from orkestra.temporal.guard.shape import INSIDE, Shape

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
