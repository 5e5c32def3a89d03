"""Names that no other test of the run uses, so that all of them can share one server."""

import uuid
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fresh:
    """Makes names for one test; all of them end alike, for searching the server's log."""

    suffix: str = field(default_factory=lambda: uuid.uuid4().hex[:10])

    def task_queue(self, name: str = "queue") -> str:
        return f"{name}-{self.suffix}"

    def tenant(self, name: str = "acme") -> str:
        """A well-formed tenant ID; ask with another name for a second tenant."""
        return f"{name}-{self.suffix}"

    def workflow_id(self, name: str = "workflow") -> str:
        return f"{name}-{self.suffix}"
