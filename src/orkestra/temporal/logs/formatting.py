"""One line for a machine, or some for a person; no secret and no control character in either."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from orkestra.temporal.logs.context import CONTEXT

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OF_THE_SDK: Final = frozenset(
    {CONTEXT, "temporal_workflow", "temporal_activity", "temporal_log", "workflow_info"}
    | {"activity_info"}
)
_HIDDEN: Final = "***"
_INDENT: Final = "    "


class _Formatter(logging.Formatter):
    """Takes a record apart, with the secrets hidden."""

    def __init__(self, *, secrets: Collection[str] = ()) -> None:
        """Format records.

        Args:
            secrets: Texts that never appear, the longest first where one contains another.
        """
        super().__init__()
        self._secrets = sorted(secrets, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """The text with each secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def trouble(self, record: logging.LogRecord) -> str | None:
        """The traceback, if there is one."""
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [record.stack_info] if record.stack_info else []
        return self.hide("\n".join(parts)) if parts else None

    def given(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the caller gave as `extra`."""
        return {
            name: _jsonable(value, self.hide)
            for name, value in vars(record).items()
            if name not in _STANDARD and name not in _OF_THE_SDK
        }


class JsonFormatter(_Formatter):
    """One JSON object a record, in ASCII, for a log collector.

    `time`, `level`, `logger` and `message` are always there; `tenant`, `namespace`, `task_queue`,
    `workflow_type`, `workflow_id`, `run_id`, `activity_type`, `activity_id` and `attempt` where
    there is one; `extra` and `exception` if given.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See base class."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": self.hide(record.getMessage()),
            **_context(record),
        }
        if given := self.given(record):
            fields["extra"] = given
        if trouble := self.trouble(record):
            fields["exception"] = trouble
        return json.dumps(fields)


class TextFormatter(_Formatter):
    """A line for a person, and the traceback below it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """See base class."""
        when = datetime.fromtimestamp(record.created).astimezone()
        context = _context(record)
        given = {k: v for k, v in self.given(record).items() if k not in context}
        shown = "".join(f" {name}={value}" for name, value in {**given, **context}.items())
        line = f"{when:%H:%M:%S} {record.levelname} {record.name}: "
        lines = [escaped(f"{line}{self.hide(record.getMessage())}{shown}")]
        if trouble := self.trouble(record):
            lines += [_INDENT + escaped(each) for each in trouble.split("\n")]
        return "\n".join(lines)


def escaped(text: str) -> str:
    r"""The text on one line, with characters that a terminal would obey written as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _context(record: logging.LogRecord) -> Mapping[str, str | int]:
    found: Mapping[str, str | int] = getattr(record, CONTEXT, {})
    return found


def _jsonable(value: object, hide: Callable[[str], str]) -> Any:
    """Numbers as they are, the rest as text; never an error."""
    is_number = isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))
    if value is None or is_number:
        return value
    try:
        return hide(str(value))
    except Exception as error:  # noqa: BLE001 - a line must not be lost for one bad value
        return f"<{type(value).__name__}: {type(error).__name__}>"
