"""Where spans were decoded before `orkestra.otlp` did; kept while others still import it."""

from orkestra.otlp.spans import ReceivedSpan

__all__ = ["ReceivedSpan"]
