"""What the command line prints: plain text where nobody watches, and never a control character.

IDs come from outside, and the server takes newlines and terminal escapes in them.
"""

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

import typer

MARKS: Final = {True: ("ok", "green"), False: ("fail", "bold red"), None: ("open", "yellow")}
"""How a check is shown that is well, is not, or is open, and in which style."""

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def plain(text: str) -> str:
    r"""The text on one line, with characters that a terminal would obey written as `\x1b`."""
    joined = " ".join(text.split("\n"))
    if joined.isprintable():
        return joined
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined
    )


def write_line(text: str) -> None:
    """Write one line to standard output, at once."""
    typer.echo(plain(text))
    sys.stdout.flush()


def write_json(value: Mapping[str, Any]) -> None:
    """Write one line of JSON to standard output, at once."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def tell(as_json: bool, told: Mapping[str, Any], line: str) -> None:  # noqa: FBT001 - a printer
    """Write what was done, as JSON or in a line."""
    if as_json:
        write_json(told)
    else:
        write_line(line)


def write_error(text: str) -> None:
    """Write one line to standard error."""
    typer.echo(f"orkestra: {plain(text)}", err=True)


def log_to_stderr(level: int) -> None:
    """Send log records of the level and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter(_LOG_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _PlainFormatter(logging.Formatter):
    """Keeps a record's message on one line; a traceback below it stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """See base class."""
        return plain(super().formatMessage(record))
