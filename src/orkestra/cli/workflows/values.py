"""What goes in and comes out: JSON both ways."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from orkestra.cli.output import plain

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="JSON",
        help="An argument as JSON, @FILE with one, or - for standard input; may be repeated.",
    ),
]


def parse_inputs(texts: Sequence[str] | None) -> list[Any]:
    """Read the arguments of a call.

    Args:
        texts: What was given for `--input`.

    Returns:
        The arguments.

    Raises:
        typer.BadParameter: A text is not JSON, or a file cannot be read.
    """
    return [_parse(text) for text in texts or ()]


def as_json(value: Any) -> str:
    """A value on one line, as JSON; what JSON cannot say is shown as text."""
    return plain(json.dumps(value, ensure_ascii=False, default=str))


def since(start: datetime, end: datetime | None) -> str:
    """How long something took, in words that are short; empty where it runs still."""
    return "" if end is None else lasting(end - start)


def lasting(duration: timedelta) -> str:
    """A duration with the unit that suits it."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))


def _parse(text: str) -> Any:
    source = text
    if text == "-":
        source = sys.stdin.read()
    elif text.startswith("@"):
        try:
            source = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{text!r} cannot be read: {error}"
            raise typer.BadParameter(msg) from error
    try:
        return json.loads(source)
    except ValueError as error:
        shown = "what came in" if text == "-" else repr(text)
        msg = f"{shown} is no JSON ({error}): a text needs quotes, '\"like this\"'"
        raise typer.BadParameter(msg) from error
