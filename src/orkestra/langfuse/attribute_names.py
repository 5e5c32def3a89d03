"""The names that Langfuse gives to a span's attributes, without importing its SDK.

A test compares them with the SDK's.
"""

from typing import Final

TRACER: Final = "langfuse-sdk"
"""Instrumentation scope by which Langfuse knows spans that speak its own attributes."""

TRACE_USER: Final = "user.id"
TRACE_SESSION: Final = "session.id"
TRACE_TAGS: Final = "langfuse.trace.tags"
TRACE_METADATA: Final = "langfuse.trace.metadata"

USERS: Final = frozenset(
    {TRACE_USER, "langfuse.user.id", "enduser.id", "ai.telemetry.metadata.userId"}
)
SESSIONS: Final = frozenset(
    {TRACE_SESSION, "langfuse.session.id", "gen_ai.conversation.id"}
    | {"ai.telemetry.metadata.sessionId"}
)
TAGS: Final = frozenset(
    {TRACE_TAGS, "langfuse.tags", "langfuse.tag.tags", "tag.tags", "ai.telemetry.metadata.tags"}
)
"""Where Langfuse also looks for the labels of a trace, as other libraries have them."""

TYPE: Final = "langfuse.observation.type"
METADATA: Final = "langfuse.observation.metadata"
LEVEL: Final = "langfuse.observation.level"
STATUS_MESSAGE: Final = "langfuse.observation.status_message"
INPUT: Final = "langfuse.observation.input"
OUTPUT: Final = "langfuse.observation.output"
COMPLETION_START_TIME: Final = "langfuse.observation.completion_start_time"
USAGE_DETAILS: Final = "langfuse.observation.usage_details"
COST_DETAILS: Final = "langfuse.observation.cost_details"

ENVIRONMENT: Final = "langfuse.environment"
RELEASE: Final = "langfuse.release"
VERSION: Final = "langfuse.version"
AS_ROOT: Final = "langfuse.internal.as_root"
IS_APP_ROOT: Final = "langfuse.internal.is_app_root"

METADATA_PREFIXES: Final = (f"{METADATA}.", f"{TRACE_METADATA}.")

TRACE_ID_BAGGAGE: Final = "langfuse_trace_id"
"""Baggage that tells the SDK's processor that the trace has its root elsewhere."""
