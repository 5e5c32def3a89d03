"""Spans to Langfuse: the only package that imports `langfuse` and `opentelemetry`.

Importing it imports neither: that happens in threads, when they are first needed.
"""

from orkestra.langfuse.exporter import Loss
from orkestra.langfuse.langfuse_sink import LangfuseProjects, LangfuseSink

__all__ = ["LangfuseProjects", "LangfuseSink", "Loss"]
