"""`OrkestraPlugin`: everything of Orkestra that hooks into the SDK, as one standard plugin."""

from orkestra.temporal.plugin.counts import span_counts
from orkestra.temporal.plugin.plugin import OrkestraPlugin, plugin_of, with_plugin

__all__ = ["OrkestraPlugin", "plugin_of", "span_counts", "with_plugin"]
