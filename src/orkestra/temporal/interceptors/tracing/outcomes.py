"""What an exception means for the span around it."""

import asyncio
from typing import Final

from temporalio import workflow
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, is_cancelled_exception

from orkestra.tracing import Captured, Level, Outcome, capture_error

_BENIGN: Final = ApplicationErrorCategory.BENIGN.value
_MAX_MESSAGE: Final = 4 * 1024
_MAX_CAUSES: Final = 8


def outcome_of_run(error: BaseException) -> Outcome | None:
    """How a workflow run ended, or None where it did not end.

    Any exception that the SDK does not count as a failure fails the workflow task, which is tried
    again; eviction from the cache unwinds the workflow's code too.
    """
    if isinstance(error, workflow.ContinueAsNewError):
        return Outcome(metadata={"status": "continued_as_new"})
    if is_cancelled_exception(error) and workflow.cancellation_reason() is not None:
        return _failed(error, Level.WARNING, "cancelled")
    return _outcome_of_failure(error)


def outcome_of_handler(error: BaseException) -> Outcome | None:
    """How a signal or update handler ended, or None where its task is tried again."""
    if is_cancelled_exception(error):
        return _failed(error, Level.WARNING, "cancelled")
    return _outcome_of_failure(error)


def outcome_of_attempt(error: BaseException) -> Outcome:
    """How an attempt of an activity ended."""
    if is_cancelled_exception(error):
        return _failed(error, Level.WARNING, "cancelled")
    if not isinstance(error, Exception):
        # The SDK's way of saying that someone else completes the activity later.
        return Outcome(metadata={"status": "completes_later"})
    return _failed(error, _level(error), "failed")


def outcome_of_record(failure: Failure) -> Outcome:
    """How something ended that the history has a failure of."""
    if failure.HasField("canceled_failure_info"):
        return Outcome(
            level=Level.WARNING,
            message=_message_of(failure),
            metadata={"status": "cancelled"},
        )
    category = failure.application_failure_info.category
    level = Level.WARNING if category == _BENIGN else Level.ERROR
    return Outcome(level=level, message=_message_of(failure), metadata={"status": "failed"})


def _message_of(failure: Failure) -> Captured:
    shown: list[str] = []
    cause = failure
    while len(shown) < _MAX_CAUSES:
        kind = cause.application_failure_info.type
        shown.append(f"{kind}: {cause.message}" if kind else cause.message)
        if not cause.HasField("cause"):
            break
        cause = cause.cause
    text = "; caused by ".join(shown)
    return Captured(text[:_MAX_MESSAGE], len(text) > _MAX_MESSAGE)


def _outcome_of_failure(error: BaseException) -> Outcome | None:
    # The SDK turns asyncio's cancellation into Temporal's, which is a failure.
    if isinstance(error, asyncio.CancelledError) or workflow.is_failure_exception(error):
        return _failed(error, _level(error), "failed")
    return None


def _failed(error: BaseException, level: Level, status: str) -> Outcome:
    message = capture_error(error, max_bytes=_MAX_MESSAGE)
    return Outcome(level=level, message=message, metadata={"status": status})


def _level(error: BaseException) -> Level:
    is_benign = (
        isinstance(error, ApplicationError) and error.category is ApplicationErrorCategory.BENIGN
    )
    return Level.WARNING if is_benign else Level.ERROR
