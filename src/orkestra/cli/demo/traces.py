"""One trace, as far as it has arrived."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orkestra.otlp import TraceTree


@dataclass(frozen=True)
class Trace:
    """What arrived of a trace.

    Attributes:
        id: Its id, as 32 hexadecimal digits.
        roots: The spans whose parents are not there, with what hangs under them.
    """

    id: str
    roots: Sequence["TraceTree"]

    @property
    def is_whole(self) -> bool:
        """Whether it has one root, which is one by its own account."""
        return len(self.roots) == 1 and self.roots[0].span.parent_id is None

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "id": self.id,
            "spans": sum(1 for root in self.roots for _ in root.walk()),
            "roots": [_as_json(root) for root in self.roots],
        }


def _as_json(tree: "TraceTree") -> dict[str, Any]:
    return {
        "name": tree.span.name,
        "type": tree.span.type,
        "milliseconds": tree.duration / timedelta(milliseconds=1),
        "level": tree.span.level,
        "message": tree.span.status_message,
        "children": [_as_json(child) for child in tree.children],
    }


def branches(
    tree: "TraceTree", branch: str = "", indent: str = ""
) -> Iterator[tuple["TraceTree", str]]:
    """Each span with the lines to draw before it."""
    yield tree, branch
    for child in tree.children:
        is_last = child is tree.children[-1]
        deeper = indent + ("   " if is_last else "│  ")
        yield from branches(child, indent + ("└─ " if is_last else "├─ "), deeper)


def note_on(tree: "TraceTree") -> str:
    """What is worth saying of a span beside its name and duration."""
    span = tree.span
    if span.level != "DEFAULT":
        return span.status_message or span.level
    if span.type == "generation":
        model = span.attributes.get("langfuse.observation.model.name", "")
        return f"generation by {model}"
    attempt = span.metadata.get("attempt", 1)
    return f"attempt {attempt}" if attempt != 1 else ""
