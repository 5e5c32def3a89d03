"""Traces that a test captured, with assertions that say what they found instead."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from orkestra.otlp import ReceivedSpan, TraceTree


@dataclass(frozen=True, slots=True)
class CapturedSpan:
    """One span, to assert on. Each assertion returns the span, so that they can be chained.

    Attributes:
        received: The span as it came over the wire.
        children: What hangs under it, in the order in which it began.
    """

    received: ReceivedSpan
    children: "tuple[CapturedSpan, ...]" = ()

    @property
    def name(self) -> str:
        """Its name, for instance `activity:charge`."""
        return self.received.name

    def has_input(self, *expected: Any) -> Self:
        """Check the arguments, as JSON shows them."""
        return self._check("input", self.received.input, list(expected))

    def has_output(self, expected: Any) -> Self:
        """Check the result, as JSON shows it."""
        return self._check("output", self.received.output, expected)

    def has_metadata(self, **expected: Any) -> Self:
        """Check some of the metadata."""
        found = {key: self.received.metadata.get(key) for key in expected}
        return self._check("metadata", found, expected)

    def has_error(self, text: str = "") -> Self:
        """Check that it failed, with a message that has the text in it."""
        message = self.received.status_message or ""
        if self.received.level != "ERROR":
            raise AssertionError(f"{self.name} did not fail: its level is {self.received.level}")
        if text not in message:
            raise AssertionError(f"{self.name} failed by {message!r}, not by {text!r}")
        return self

    def is_cancelled(self) -> Self:
        """Check that it was cancelled."""
        return self._check("status", self.received.metadata.get("status"), "cancelled")

    def succeeded(self) -> Self:
        """Check that nothing went wrong in it."""
        if self.received.level != "DEFAULT":
            why = self.received.status_message
            raise AssertionError(f"{self.name} has level {self.received.level}: {why!r}")
        return self

    def walk(self) -> "Iterator[CapturedSpan]":
        """The span and everything below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def _check(self, what: str, found: object, expected: object) -> Self:
        if found != expected:
            raise AssertionError(f"{what} of {self.name} is {found!r}, not {expected!r}")
        return self


@dataclass(frozen=True, slots=True)
class CapturedTrace:
    """Everything that was sent of one trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        roots: Its roots; a complete trace has one.
    """

    trace_id: str
    roots: tuple[CapturedSpan, ...]

    @classmethod
    def of(cls, trace_id: str, trees: list[TraceTree]) -> Self:
        """The trace of some trees."""
        return cls(trace_id, tuple(_captured(tree) for tree in trees))

    @property
    def tenant(self) -> str | None:
        """The tenant that the trace carries."""
        return self.roots[0].received.trace_metadata.get("tenant_id")

    @property
    def names(self) -> list[str]:
        """The names of all its spans, parents first."""
        return [span.name for root in self.roots for span in root.walk()]

    def spans(self, name: str) -> list[CapturedSpan]:
        """All spans of a name, in the order of the tree: the attempts of an activity, say."""
        return [span for root in self.roots for span in root.walk() if span.name == name]

    def span(self, name: str) -> CapturedSpan:
        """The only span of a name.

        Raises:
            AssertionError: There is none, or there are several.
        """
        found = self.spans(name)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} spans are named {name!r}, in\n{self.outline()}")
        return found[0]

    def is_one_tree(self) -> Self:
        """Check that there is one root, that no parent is missing, and that nothing came twice.

        Returns:
            The trace.
        """
        ids = [span.received.span_id for root in self.roots for span in root.walk()]
        if len(set(ids)) != len(ids):
            raise AssertionError(f"{len(ids) - len(set(ids))} spans came twice:\n{self.outline()}")
        if len(self.roots) != 1:
            raise AssertionError(f"{len(self.roots)} roots, not one:\n{self.outline()}")
        return self

    def outline(self) -> str:
        """The names, a line each, indented by their depth."""
        return "\n".join(line for root in self.roots for line in _lines(root, 0))


def _captured(tree: TraceTree) -> CapturedSpan:
    return CapturedSpan(tree.span, tuple(_captured(child) for child in tree.children))


def _lines(span: CapturedSpan, depth: int) -> Iterator[str]:
    yield "  " * depth + span.name
    for child in span.children:
        yield from _lines(child, depth + 1)
