"""Traces as trees, to assert on and to draw."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from orkestra.otlp.spans import ReceivedSpan


@dataclass(frozen=True, slots=True)
class TraceTree:
    """A span and what hangs under it, in the order in which it began.

    Attributes:
        span: The span.
        children: What hangs under it.
    """

    span: ReceivedSpan
    children: "tuple[TraceTree, ...]" = ()

    @property
    def duration(self) -> timedelta:
        """How long the span took."""
        return self.span.duration

    def walk(self, depth: int = 0) -> "Iterator[tuple[int, ReceivedSpan]]":
        """Every span of the tree with its depth, parents before children."""
        yield depth, self.span
        for child in self.children:
            yield from child.walk(depth + 1)

    def find(self, name: str) -> "list[TraceTree]":
        """The trees within this one whose span has the name."""
        here = [self] if self.span.name == name else []
        return here + [found for child in self.children for found in child.find(name)]

    def outline(self) -> str:
        """The names, a line each, indented by their depth."""
        return "\n".join("  " * depth + span.name for depth, span in self.walk())


def traces_of(spans: Iterable[ReceivedSpan]) -> dict[str, list[TraceTree]]:
    """Arrange spans as trees.

    Args:
        spans: Spans of any traces, each once.

    Returns:
        The roots of each trace by its id. A span whose parent is not among the spans is a root,
        so a complete trace has one.
    """
    by_trace: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns)):
        by_trace.setdefault(span.trace_id, []).append(span)
    return {trace_id: _roots(members) for trace_id, members in by_trace.items()}


def _roots(members: list[ReceivedSpan]) -> list[TraceTree]:
    known = {span.span_id for span in members}
    below: dict[str | None, list[ReceivedSpan]] = {}
    for span in members:
        parent = span.parent_id if span.parent_id in known else None
        below.setdefault(parent, []).append(span)
    return [_tree(span, below) for span in below.get(None, [])]


def _tree(span: ReceivedSpan, below: dict[str | None, list[ReceivedSpan]]) -> TraceTree:
    return TraceTree(span, tuple(_tree(child, below) for child in below.get(span.span_id, [])))
