"""What workflow or activity a line was logged from, whichever logger it was logged with."""

import logging
from collections.abc import Mapping
from typing import Final

from temporalio import activity, workflow

from orkestra.tenancy import current_tenant

CONTEXT: Final = "task_context"
"""Attribute of a log record that holds what `TaskContextFilter` found."""

_FieldValue = str | int


class TaskContextFilter(logging.Filter):
    """Notes on each record where it was logged, and drops what a workflow said before a replay.

    Give it to a handler, not to a logger: filters of loggers do not see their children's records.

    Example:
        ```python
        handler.addFilter(TaskContextFilter())  # your formatter finds record.task_context
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See base class."""
        if hasattr(record, CONTEXT):  # another handler's filter was here
            return True
        if workflow.in_workflow() and workflow.unsafe.is_replaying_history_events():
            return False
        setattr(record, CONTEXT, task_context())
        return True


def task_context() -> Mapping[str, _FieldValue]:
    """The tenant, and the workflow or activity that the calling code belongs to."""
    fields: dict[str, _FieldValue | None] = {"tenant": current_tenant()}
    if activity.in_activity():
        fields |= _of_activity(activity.info())
    elif workflow.in_workflow():
        fields |= _of_workflow(workflow.info())
    return {name: value for name, value in fields.items() if value is not None}


def _of_activity(info: activity.Info) -> dict[str, _FieldValue | None]:
    return {
        "namespace": info.namespace,
        "task_queue": info.task_queue,
        "workflow_type": info.workflow_type,
        "workflow_id": info.workflow_id,
        "run_id": info.workflow_run_id,
        "activity_type": info.activity_type,
        "activity_id": info.activity_id,
        "attempt": info.attempt,
    }


def _of_workflow(info: workflow.Info) -> dict[str, _FieldValue | None]:
    return {
        "namespace": info.namespace,
        "task_queue": info.task_queue,
        "workflow_type": info.workflow_type,
        "workflow_id": info.workflow_id,
        "run_id": info.run_id,
        "attempt": info.attempt,
    }
