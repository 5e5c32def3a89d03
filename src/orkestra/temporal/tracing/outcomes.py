"""How a span ended: the one place that turns errors and failures into levels and messages.

Workers see exceptions, the core's messages and histories have `Failure` protos. Both follow the
same rules: a cancellation is a warning, and so is an application error of the category BENIGN;
every other failure is an error.
"""

import asyncio
from typing import Final

from temporalio import workflow
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, is_cancelled_exception

from orkestra.tracing import Captured, Level, Outcome, capture_error

# The SDK's enum has the numbers of the proto's.
_BENIGN: Final = ApplicationErrorCategory.BENIGN.value
_MAX_MESSAGE_CHARACTERS: Final = 4 * 1024
_MAX_CAUSES: Final = 8


def run_outcome(error: BaseException) -> Outcome | None:
    """Tell how a workflow run ended with an error, or None where it goes on.

    An exception that the SDK does not count as a failure fails the workflow task only, and the
    server retries that. Eviction from the cache unwinds the workflow's code, too.
    """
    if isinstance(error, workflow.ContinueAsNewError):
        return Outcome(metadata={"status": "continued_as_new"})
    # A cancelled activity alone raises the same error, and then the run has failed.
    if is_cancelled_exception(error) and workflow.cancellation_reason() is not None:
        return _error_outcome(error, Level.WARNING, "cancelled")
    return _workflow_failure(error)


def handler_outcome(error: BaseException) -> Outcome | None:
    """Tell how a signal or update handler ended, or None where its task is retried."""
    if is_cancelled_exception(error):
        return _error_outcome(error, Level.WARNING, "cancelled")
    return _workflow_failure(error)


def attempt_outcome(error: BaseException) -> Outcome:
    """Tell how an attempt of an activity ended with an error."""
    if is_cancelled_exception(error):
        return _error_outcome(error, Level.WARNING, "cancelled")
    if not isinstance(error, Exception):
        # The SDK raises this where the activity is to be completed by ID later.
        return Outcome(metadata={"status": "completes_later"})
    return failure_outcome(error)


def failure_outcome(error: BaseException, *, status: str = "failed") -> Outcome:
    """Tell how something failed with an error; only its author can make it BENIGN."""
    category = error.category.value if isinstance(error, ApplicationError) else None
    return _error_outcome(error, _level(category), status)


def terminal_outcome(status: str, message: str, *, level: Level = Level.WARNING) -> Outcome:
    """Tell how something was ended from outside, without an error of its own."""
    limit = _MAX_MESSAGE_CHARACTERS
    shortened = Captured(message[:limit], is_cut=len(message) > limit)
    return Outcome(level=level, message=shortened, metadata={"status": status})


def proto_outcome(failure: Failure) -> Outcome:
    """Tell how something ended for which the server has recorded a failure."""
    messages: list[str] = []
    cause = failure
    while len(messages) < _MAX_CAUSES:
        kind = cause.application_failure_info.type
        messages.append(f"{kind}: {cause.message}" if kind else cause.message)
        if not cause.HasField("cause"):
            break
        cause = cause.cause
    message = "; caused by ".join(messages)
    if failure.HasField("canceled_failure_info"):
        return terminal_outcome("cancelled", message)
    level = _level(failure.application_failure_info.category)
    return terminal_outcome("failed", message, level=level)


def _workflow_failure(error: BaseException) -> Outcome | None:
    # The SDK turns asyncio's cancellation into Temporal's, which is a failure.
    if isinstance(error, asyncio.CancelledError) or workflow.is_failure_exception(error):
        return failure_outcome(error)
    return None


def _error_outcome(error: BaseException, level: Level, status: str) -> Outcome:
    message = capture_error(error, max_bytes=_MAX_MESSAGE_CHARACTERS)
    return Outcome(level=level, message=message, metadata={"status": status})


def _level(category: int | None) -> Level:
    return Level.WARNING if category == _BENIGN else Level.ERROR
