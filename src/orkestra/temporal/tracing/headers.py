"""The Temporal header that carries the trace, in plain JSON.

A trace's attributes as they are shown: the session filled in, all of them the tenant's own.

What an exception means for the span around it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, is_cancelled_exception

from orkestra.tenancy import scope_id
from orkestra.tracing import (
    Captured,
    Level,
    Outcome,
    TraceAttributes,
    TraceContext,
    capture_error,
    fitting,
)

TRACE_HEADER: Final = "_orkestra-trace"
"""Name of the header; `orkestra.tracing.TraceContext` says what stands in it."""

_NOTHING: Final = TraceContext()

NexusHeaders = Mapping[str, str]
Headers = Mapping[str, Payload]


def read_header(headers: Headers) -> TraceContext:
    """What the header says; nothing where it is missing or cannot be read."""
    payload = headers.get(TRACE_HEADER)
    return (payload and TraceContext.decode(payload.data)) or _NOTHING


def write_header(headers: Headers, context: TraceContext | None) -> dict[str, Payload]:
    """The headers with ours for the context, or without ours for None.

    Args:
        headers: The headers of a call; whatever they say about our trace is dropped.
        context: What to carry.
    """
    others = {name: payload for name, payload in headers.items() if name != TRACE_HEADER}
    if context is None:
        return others
    payload = Payload(metadata={"encoding": b"json/plain"}, data=context.encode())
    return {**others, TRACE_HEADER: payload}


def read_nexus_header(headers: NexusHeaders) -> TraceContext:
    """What a Nexus operation's header says; nothing where it is missing or cannot be read."""
    found = (value for name, value in headers.items() if name.lower() == TRACE_HEADER)
    return TraceContext.decode(next(found, "").encode()) or TraceContext()


def write_nexus_header(headers: NexusHeaders | None, context: TraceContext) -> dict[str, str]:
    """The headers of a Nexus operation with ours, in ASCII, in place of any that reads alike."""
    given = headers or {}
    others = {name: value for name, value in given.items() if name.lower() != TRACE_HEADER}
    return {**others, TRACE_HEADER: context.encode(ascii_only=True).decode()}


def complete(
    attributes: TraceAttributes, *, tenant: str | None, workflow_id: str
) -> TraceAttributes:
    """The attributes to show.

    Tenants may share a Langfuse project, where users and sessions of one name would be one: what
    the caller calls `ada` is shown as `acme:ada`.

    Args:
        attributes: What the caller set.
        tenant: The tenant of the work.
        workflow_id: The session where the caller set none.
    """
    user, session = attributes.user_id, attributes.session_id or workflow_id
    if tenant is not None:
        user, session = user and scope_id(tenant, user), scope_id(tenant, session)
    return TraceAttributes(
        user_id=user and fitting(user),
        session_id=fitting(session),
        tags=attributes.tags,
        metadata=attributes.metadata,
    )


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
