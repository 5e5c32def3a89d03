"""Shapes of the requests about schedules: what a schedule starts is held like a start."""

from collections.abc import Sequence
from typing import Final

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
from temporalio.api.workflow.v1 import NewWorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CountSchedulesRequest,
    CreateScheduleRequest,
    DeleteScheduleRequest,
    DescribeScheduleRequest,
    ListScheduleMatchingTimesRequest,
    ListSchedulesRequest,
    PatchScheduleRequest,
    UpdateScheduleRequest,
)

from orkestra.temporal.guard import rules
from orkestra.temporal.guard.shape import INSIDE, Shape
from orkestra.temporal.guard.table.workflows import DEPLOYMENTS, SERVER_ONLY

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
