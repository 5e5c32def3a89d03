"""A trace as a tree on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from orkestra.cli.output import plain
from orkestra.temporal.histories import Episode
from orkestra.tracing import Level, SpanKind

_SEEN: Final = frozenset({"abandoned", "completed", "failed", "running"})
"""What a line says by its times and colours already."""

_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1000 * _MILLISECOND
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_STYLES: Final[Mapping[Level, str]] = {
    Level.DEFAULT: "",
    Level.WARNING: "yellow",
    Level.ERROR: "red",
}
_TIMES: Final = 21
"""Columns of the two times behind a name."""

_AT_LEAST: Final = 20
"""Columns that a name gets in the deepest tree."""


@dataclass(frozen=True)
class Branch:
    """An episode and what hangs under it.

    Attributes:
        episode: The episode.
        children: What hangs under it, in the order in which it began.
    """

    episode: Episode
    children: "list[Branch]" = field(default_factory=list["Branch"])

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can say it, without arguments and results."""
        span, outcome = self.episode.span, self.episode.outcome
        end_ns = self.episode.end_ns
        return {
            "name": span.name,
            "span_id": span.span_id,
            "started": _moment(span.start_ns).isoformat(),
            "milliseconds": None if end_ns is None else (end_ns - span.start_ns) / _MILLISECOND,
            "status": status_of(self.episode),
            "level": (outcome.level if outcome else Level.DEFAULT).value,
            "message": message_of(self.episode),
            "metadata": {**span.metadata, **(outcome.metadata if outcome else {})},
            "children": [child.as_dict() for child in self.children],
        }


def branches_of(episodes: Sequence[Episode]) -> list[Branch]:
    """The episodes as trees; what hangs under something that is not there is a root."""
    branches = {each.span.span_id: Branch(each) for each in episodes}
    roots: list[Branch] = []
    for branch in sorted(branches.values(), key=lambda each: each.episode.span.start_ns):
        parent = branches.get(branch.episode.span.parent_id or "")
        (roots if parent is None else parent.children).append(branch)
    return roots


def status_of(episode: Episode) -> str:
    """How it ended, in one word."""
    if episode.outcome is None:
        return "abandoned" if episode.is_abandoned else "running"
    return str(episode.outcome.metadata.get("status", "completed"))


def message_of(episode: Episode) -> str | None:
    """What went wrong."""
    message = episode.outcome.message if episode.outcome else None
    return None if message is None else str(message.value)


def draw(console: Console, roots: Sequence[Branch]) -> None:
    """Print trees, a line for each span and one for what went wrong in it."""
    for root in roots:
        span = root.episode.span
        began = _moment(span.start_ns).isoformat(sep=" ", timespec="milliseconds")
        _print(console, Text(f"trace {span.trace_id}", "bold"), "began", "took")
        console.print(
            Text(began.replace("+00:00", " UTC"), "dim"), overflow="ellipsis", no_wrap=True
        )
        for branch, before, beside in _lines(root):
            _draw_one(console, branch.episode, before, beside, span.start_ns)


def _draw_one(console: Console, episode: Episode, before: str, beside: str, origin_ns: int) -> None:
    span, outcome = episode.span, episode.outcome
    style = _STYLES[outcome.level] if outcome else "dim" if episode.is_abandoned else "cyan"
    name = Text.assemble((before, "dim"), (plain(span.name), style), (_note(episode), "dim"))
    if episode.end_ns is None:
        took = status_of(episode)
    else:
        # Of a signal the history does not say how long its handler took.
        is_signal = span.kind is SpanKind.SIGNAL
        took = "-" if is_signal else _duration(episode.end_ns - span.start_ns)
    _print(console, name, f"+{_duration(span.start_ns - origin_ns)}", took)
    if (message := message_of(episode)) is not None:
        line = Text.assemble((beside, "dim"), (plain(message), style))
        line.truncate(console.width, overflow="ellipsis")
        console.print(line, no_wrap=True)


def _print(console: Console, name: Text, began: str, took: str) -> None:
    room = max(console.width - _TIMES, _AT_LEAST)
    name.truncate(room, overflow="ellipsis", pad=True)
    times = Text(f" {began:>10}{took:>10}", "dim")
    console.print(name + times, no_wrap=True, overflow="crop")


def _note(episode: Episode) -> str:
    """What is worth saying beside a name."""
    metadata = episode.span.metadata
    notes: list[str] = []
    if episode.span.kind is SpanKind.WORKFLOW:
        notes.append(str(metadata.get("workflow_id", "")))
    attempt = metadata.get("attempt", 1)
    if attempt == 0 and episode.outcome is not None:
        notes.append("never began")
    elif attempt not in (0, 1):
        notes.append(f"attempt {attempt}")
    if metadata.get("is_local"):
        notes.append("local")
    if (status := status_of(episode)) not in _SEEN:
        notes.append(status.replace("_", " "))
    return plain("".join(f"  {note}" for note in notes))


def _lines(branch: Branch, before: str = "", indent: str = "") -> Iterator[tuple[Branch, str, str]]:
    """Each branch with what stands before its name, and before the line below it."""
    yield branch, before, indent + ("│  " if branch.children else "   ")
    for child in branch.children:
        is_last = child is branch.children[-1]
        deeper = indent + ("   " if is_last else "│  ")
        yield from _lines(child, indent + ("└─ " if is_last else "├─ "), deeper)


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / _SECOND, UTC)


def _duration(nanoseconds: int) -> str:
    if nanoseconds < _SECOND:
        return f"{nanoseconds / _MILLISECOND:.0f} ms"
    seconds = nanoseconds / _SECOND
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    if seconds < _HOUR:
        return f"{seconds // 60:.0f} m {seconds % 60:02.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // 60:02.0f} m"
