"""Captured traces, with assertions whose messages show what was found instead."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from orkestra.otlp import ReceivedSpan, TraceTree


@dataclass(frozen=True, slots=True)
class CapturedSpan:
    """Captured span. Each assertion returns the span, so that assertions can be chained.

    Attributes:
        received: The span as it was received.
        children: Its children, by start time.
    """

    received: ReceivedSpan
    children: "tuple[CapturedSpan, ...]" = ()

    @property
    def name(self) -> str:
        """Name, for instance `activity:charge`."""
        return self.received.name

    def has_input(self, *expected: Any) -> Self:
        """Assert the arguments, as JSON values."""
        return self._check("input", self.received.input, list(expected))

    def has_output(self, expected: Any) -> Self:
        """Assert the result, as a JSON value."""
        return self._check("output", self.received.output, expected)

    def has_metadata(self, **expected: Any) -> Self:
        """Assert some of the metadata."""
        found = {key: self.received.metadata.get(key) for key in expected}
        return self._check("metadata", found, expected)

    def has_error(self, text: str = "") -> Self:
        """Assert that it failed with a message that contains the text."""
        message = self.received.status_message or ""
        if self.received.level != "ERROR":
            raise AssertionError(f"{self.name} did not fail: its level is {self.received.level}")
        if text not in message:
            raise AssertionError(f"{self.name} failed with {message!r}, not with {text!r}")
        return self

    def is_cancelled(self) -> Self:
        """Assert that it was cancelled."""
        return self._check("status", self.received.metadata.get("status"), "cancelled")

    def succeeded(self) -> Self:
        """Assert that it ended without a warning or an error."""
        if self.received.level != "DEFAULT":
            why = self.received.status_message
            raise AssertionError(f"{self.name} has level {self.received.level}: {why!r}")
        return self

    def walk(self) -> "Iterator[CapturedSpan]":
        """Yield the span and all spans below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def _check(self, label: str, found: object, expected: object) -> Self:
        if found != expected:
            raise AssertionError(f"{label} of {self.name} is {found!r}, not {expected!r}")
        return self


@dataclass(frozen=True, slots=True)
class CapturedTrace:
    """Captured trace: all spans of it that were sent.

    Attributes:
        trace_id: 32 hexadecimal digits.
        roots: Root spans; a complete trace has one.
    """

    trace_id: str
    roots: tuple[CapturedSpan, ...]

    @classmethod
    def of(cls, trace_id: str, trees: list[TraceTree]) -> Self:
        """Make a trace of some trees."""
        return cls(trace_id, tuple(_captured(tree) for tree in trees))

    @property
    def tenant(self) -> str | None:
        """Tenant of the trace."""
        return self.roots[0].received.trace_metadata.get("tenant_id")

    @property
    def names(self) -> list[str]:
        """Names of all spans, parents first."""
        return [span.name for root in self.roots for span in root.walk()]

    def spans(self, name: str) -> list[CapturedSpan]:
        """Return all spans of a name, in tree order, for instance the attempts of an activity."""
        return [span for root in self.roots for span in root.walk() if span.name == name]

    def span(self, name: str) -> CapturedSpan:
        """Return the only span of a name.

        Raises:
            AssertionError: There is none, or there are several.
        """
        found = self.spans(name)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} spans are named {name!r}, in\n{self.outline()}")
        return found[0]

    def is_one_tree(self) -> Self:
        """Assert that there is one root, no parent is missing, and no span was sent twice."""
        # Langfuse does not merge a span that is sent twice (T49).
        ids = [span.received.span_id for root in self.roots for span in root.walk()]
        if len(set(ids)) != len(ids):
            raise AssertionError(
                f"{len(ids) - len(set(ids))} spans were sent twice:\n{self.outline()}"
            )
        if len(self.roots) != 1:
            raise AssertionError(f"{len(self.roots)} roots, not one:\n{self.outline()}")
        return self

    def outline(self) -> str:
        """Return the names, one a line, indented by depth."""
        return "\n".join(line for root in self.roots for line in _lines(root, 0))


def _captured(tree: TraceTree) -> CapturedSpan:
    return CapturedSpan(tree.span, tuple(_captured(child) for child in tree.children))


def _lines(span: CapturedSpan, depth: int) -> Iterator[str]:
    yield "  " * depth + span.name
    for child in span.children:
        yield from _lines(child, depth + 1)
