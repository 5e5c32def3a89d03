"""What a backfill did, or would do."""

from dataclasses import dataclass
from typing import Any

from orkestra.tracing import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillReport:
    """What became of one execution's trace.

    Attributes:
        workflow_id: The workflow's ID on the server.
        run_id: Its run, the first of those that were read.
        missing: The spans that were sent, or with `dry_run` would be.
        present: How many spans Langfuse had already.
        recent: How many were left out because they have only just ended: a worker may be about to
            send them.
        unended: How many were left out because they have no end: they are going on, or the run
            ended without waiting for them.
        unsampled: How many were left out because their trace is not sampled.
        dry_run: Whether nothing was sent.
    """

    workflow_id: str
    run_id: str
    missing: tuple[Span, ...] = ()
    present: int = 0
    recent: int = 0
    unended: int = 0
    unsampled: int = 0
    dry_run: bool = False

    @property
    def sent(self) -> int:
        """How many spans were sent."""
        return 0 if self.dry_run else len(self.missing)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can say it; of the spans what they are, and nothing of their values."""
        return {
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            "dry_run": self.dry_run,
            "sent": self.sent,
            "present": self.present,
            "recent": self.recent,
            "unended": self.unended,
            "unsampled": self.unsampled,
            "missing": [
                {
                    "name": span.name,
                    "trace_id": span.trace_id,
                    "span_id": span.span_id,
                    "parent_id": span.parent_id,
                    "start_ns": span.start_ns,
                }
                for span in self.missing
            ],
        }
