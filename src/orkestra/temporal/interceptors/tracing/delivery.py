"""Which event of the history brought the signal that is being handled.

The SDK tells its interceptors a signal's name and arguments, not its event. It keeps the ID of the
event in a context variable, for the markers that it puts on what the handler does. That is private:
a test pins it, and where it is missing the caller counts the signals instead.
"""

from typing import Any, Final

import temporalio.workflow

_SDK: Final[Any] = temporalio.workflow


def signal_event_id() -> int | None:
    """The ID of the event `WorkflowExecutionSignaled` whose handler the running code is.

    Returns:
        The ID; None where the SDK does not tell.
    """
    try:
        markers = _SDK._event_groups._capture_event_group_markers(None)  # noqa: SLF001 - see above
        found = next((m.inbound_event.inbound_event_id for m in markers), 0)
    except Exception:  # noqa: BLE001 - private to the SDK, and no span is worth a failed task
        return None
    return found or None
