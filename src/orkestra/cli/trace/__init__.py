"""`orkestra trace`: traces from histories, drawn here or sent to Langfuse."""

from orkestra.cli.trace.app import app

__all__ = ["app"]
