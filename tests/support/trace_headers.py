"""What a workflow's history says of the headers that it was given and gave."""

from typing import Any

from temporalio.client import WorkflowHandle

_KINDS = (
    "workflow_execution_started_event_attributes",
    "activity_task_scheduled_event_attributes",
)


async def scheduled_headers(handle: WorkflowHandle[Any, Any]) -> list[Any]:
    """The headers of a workflow's start and of the activities that it scheduled, in order."""
    return [
        getattr(event, kind).header.fields
        async for event in handle.fetch_history_events()
        for kind in _KINDS
        if event.HasField(kind)
    ]
