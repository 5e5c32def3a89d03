"""OTLP as Langfuse takes it: requests, the spans in them, and traces as trees."""

from orkestra.otlp.requests import (
    TRACES_PATH,
    InvalidSpansError,
    decode_request,
    is_authorized,
)
from orkestra.otlp.spans import ReceivedSpan
from orkestra.otlp.trees import TraceTree, traces_of

__all__ = [
    "TRACES_PATH",
    "InvalidSpansError",
    "ReceivedSpan",
    "TraceTree",
    "decode_request",
    "is_authorized",
    "traces_of",
]
