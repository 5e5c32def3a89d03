"""Spans to Langfuse: the only package that imports `langfuse` and `opentelemetry`.

Importing it imports neither: that happens in threads, when they are first needed.
"""

from orkestra.langfuse.losses import Loss
from orkestra.langfuse.projects import LangfuseProjects
from orkestra.langfuse.sink import LangfuseSink

__all__ = ["LangfuseProjects", "LangfuseSink", "Loss"]
