"""The local trace page: takes the spans that Langfuse would, keeps them and shows them."""

from orkestra.dev.tracepage.page import TracePage
from orkestra.dev.tracepage.store import Retention

__all__ = ["Retention", "TracePage"]
