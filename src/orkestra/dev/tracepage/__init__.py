"""The local trace page, which receives, stores and shows spans in place of Langfuse."""

from orkestra.dev.tracepage.page import TracePage
from orkestra.dev.tracepage.store import Retention

__all__ = ["Retention", "TracePage"]
