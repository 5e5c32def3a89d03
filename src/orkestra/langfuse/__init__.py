"""Spans to Langfuse: the only package that imports `langfuse` and `opentelemetry`.

Importing it imports neither: `LangfuseSink` does so in a thread of its own when it is first used.
"""

from orkestra.langfuse.losses import Loss
from orkestra.langfuse.sink import LangfuseSink

__all__ = ["LangfuseSink", "Loss"]
