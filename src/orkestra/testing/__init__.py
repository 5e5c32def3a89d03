"""Helpers for tests of applications: a stand-in for Langfuse, and what it received."""

from orkestra.otlp import ReceivedSpan, TraceTree, traces_of
from orkestra.testing.receiver import Behaviour, LangfuseReceiver

__all__ = ["Behaviour", "LangfuseReceiver", "ReceivedSpan", "TraceTree", "traces_of"]
