"""Helpers for tests of applications: a stand-in for Langfuse, and what it received."""

from orkestra.testing.receiver import Behaviour, LangfuseReceiver
from orkestra.testing.spans import ReceivedSpan
from orkestra.testing.trees import TraceTree, traces_of

__all__ = ["Behaviour", "LangfuseReceiver", "ReceivedSpan", "TraceTree", "traces_of"]
