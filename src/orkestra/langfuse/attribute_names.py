"""Names of span attributes that Langfuse knows, each once, without importing its SDK.

A test compares them with the SDK's.
"""

from typing import Final

TRACER: Final = "langfuse-sdk"
"""Instrumentation scope of spans whose attributes are Langfuse's own."""

OBSERVATION_PREFIX: Final = "langfuse.observation."
TRACE_PREFIX: Final = "langfuse.trace."

TRACE_NAME: Final = f"{TRACE_PREFIX}name"
TRACE_USER: Final = "user.id"
TRACE_SESSION: Final = "session.id"
TRACE_TAGS: Final = f"{TRACE_PREFIX}tags"
TRACE_METADATA: Final = f"{TRACE_PREFIX}metadata"

# Langfuse reads the labels of a trace from the attributes of other libraries, too.
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

TYPE: Final = f"{OBSERVATION_PREFIX}type"
METADATA: Final = f"{OBSERVATION_PREFIX}metadata"
LEVEL: Final = f"{OBSERVATION_PREFIX}level"
STATUS_MESSAGE: Final = f"{OBSERVATION_PREFIX}status_message"
INPUT: Final = f"{OBSERVATION_PREFIX}input"
OUTPUT: Final = f"{OBSERVATION_PREFIX}output"
MODEL: Final = f"{OBSERVATION_PREFIX}model.name"
COMPLETION_START_TIME: Final = f"{OBSERVATION_PREFIX}completion_start_time"
USAGE_DETAILS: Final = f"{OBSERVATION_PREFIX}usage_details"
COST_DETAILS: Final = f"{OBSERVATION_PREFIX}cost_details"

ENVIRONMENT: Final = "langfuse.environment"
RELEASE: Final = "langfuse.release"
VERSION: Final = "langfuse.version"
AS_ROOT: Final = "langfuse.internal.as_root"
IS_APP_ROOT: Final = "langfuse.internal.is_app_root"

METADATA_PREFIXES: Final = (f"{METADATA}.", f"{TRACE_METADATA}.")

TRACE_ID_BAGGAGE: Final = "langfuse_trace_id"
"""Baggage by which the SDK's processor learns that the trace has its root elsewhere."""
