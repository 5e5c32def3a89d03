"""What is handed to a project to be sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orkestra.tracing import SpanRecord


@dataclass(frozen=True, slots=True)
class Ended:
    """A span of ours.

    Attributes:
        record: The span.
        added: Attributes that the code inside put on it, by their names in Langfuse.
        name: The name that the code inside gave it.
    """

    record: SpanRecord
    added: Mapping[str, object] = field(default_factory=dict[str, object])
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Spans that others made: observations of the Langfuse SDK or of an instrumentation.

    Attributes:
        tenant: For whom the code acted that made them.
        request: The spans as an OTLP request.
        spans: How many they are.
    """

    tenant: str | None
    request: bytes
    spans: int


class Taker(Protocol):
    """Takes spans that others made."""

    @property
    def public_key(self) -> str:
        """Key of the project that they go to."""
        ...

    def take(self, observed: Observed) -> None:
        """Take them; never blocks and never raises."""
        ...
