"""How things ended, as their history has it."""

from collections.abc import Mapping
from typing import Final

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from orkestra.tracing import Captured, Level, MetadataValue, Outcome, capture_error

_MAX_MESSAGE: Final = 4 * 1024


def failed(
    error: BaseException, *, status: str = "failed", more: Mapping[str, MetadataValue] | None = None
) -> Outcome:
    """It failed by the error, which is a warning only where its author says so.

    Args:
        error: What the failure in the history stands for.
        status: How it ended, in one word.
        more: More metadata.
    """
    is_benign = (
        isinstance(error, ApplicationError) and error.category is ApplicationErrorCategory.BENIGN
    )
    return Outcome(
        level=Level.WARNING if is_benign else Level.ERROR,
        message=capture_error(error, max_bytes=_MAX_MESSAGE),
        metadata={"status": status, **(more or {})},
    )


def stopped(status: str, message: str, *, level: Level = Level.WARNING) -> Outcome:
    """It was stopped from outside, which is no failure of its own.

    Args:
        status: How it ended, in one word.
        message: Why.
        level: What that means.
    """
    shown = Captured(message[:_MAX_MESSAGE], len(message) > _MAX_MESSAGE)
    return Outcome(level=level, message=shown, metadata={"status": status})
