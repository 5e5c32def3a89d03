"""`configure_logging()`: the whole process's logging, for whoever asks for it.

What workflow or activity a line was logged from, whichever logger it was logged with.

One line for a machine, or some for a person; no secret and no control character in either.
"""

import json
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, Literal, TextIO, TypeAlias

from pydantic import BaseModel, SecretStr
from temporalio import activity, workflow

from orkestra.config import OrkestraConfig
from orkestra.tenancy import current_tenant

LogStyle: TypeAlias = Literal["auto", "json", "text"]

_SHORTEST_SECRET: Final = 6


def configure_logging(
    *,
    level: int = logging.INFO,
    style: LogStyle = "auto",
    stream: TextIO | None = None,
    config: OrkestraConfig | None = None,
) -> None:
    """Write the process's log so that each line says for whom it was written.

    Lines from workflow and activity code, with whichever logger, carry the tenant, the workflow's
    ID, run and queue, the activity and its attempt. What a workflow has logged before is not logged
    again when it is replayed. Handlers that the root logger has are replaced.

    Nobody calls this for you but `orkestra worker`. To keep your own handlers, give them a
    `TaskContextFilter` instead.

    Args:
        level: Records of this level and above are written.
        style: `json` is one object a line, `text` is for people; `auto` is text on a terminal.
        stream: Where to write; None means standard error.
        config: Its secrets are hidden wherever they appear.
    """
    out = sys.stderr if stream is None else stream
    is_text = style == "text" or (style == "auto" and out.isatty())
    secrets = () if config is None else (*_secrets(config), *config.temporal.grpc_meta.values())
    handler = logging.StreamHandler(out)
    handler.setFormatter((TextFormatter if is_text else JsonFormatter)(secrets=_long(secrets)))
    handler.addFilter(TaskContextFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They would say in the message what now stands in fields of its own.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False


def _long(secrets: Iterable[str]) -> list[str]:
    """Those that are no ordinary words, which would hide half of the log."""
    return [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]


def _secrets(settings: object) -> Iterator[str]:
    """Every secret of the settings."""
    match settings:
        case SecretStr():
            yield settings.get_secret_value()
        case BaseModel():
            for name in type(settings).model_fields:
                yield from _secrets(getattr(settings, name))
        case dict():
            for value in settings.values():  # pyright: ignore[reportUnknownVariableType] - any mapping
                yield from _secrets(value)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return


CONTEXT: Final = "task_context"
"""Attribute of a log record that holds what `TaskContextFilter` found."""

_FieldValue = str | int


class TaskContextFilter(logging.Filter):
    """Notes on each record where it was logged, and drops what a workflow said before a replay.

    Give it to a handler, not to a logger: filters of loggers do not see their children's records.

    Example:
        ```python
        handler.addFilter(TaskContextFilter())  # your formatter finds record.task_context
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See base class."""
        if hasattr(record, CONTEXT):  # another handler's filter was here
            return True
        if workflow.in_workflow() and workflow.unsafe.is_replaying_history_events():
            return False
        setattr(record, CONTEXT, task_context())
        return True


def task_context() -> Mapping[str, _FieldValue]:
    """The tenant, and the workflow or activity that the calling code belongs to."""
    fields: dict[str, _FieldValue | None] = {"tenant": current_tenant()}
    if activity.in_activity():
        fields |= _of_activity(activity.info())
    elif workflow.in_workflow():
        fields |= _of_workflow(workflow.info())
    return {name: value for name, value in fields.items() if value is not None}


def _of_activity(info: activity.Info) -> dict[str, _FieldValue | None]:
    return {
        "namespace": info.namespace,
        "task_queue": info.task_queue,
        "workflow_type": info.workflow_type,
        "workflow_id": info.workflow_id,
        "run_id": info.workflow_run_id,
        "activity_type": info.activity_type,
        "activity_id": info.activity_id,
        "attempt": info.attempt,
    }


def _of_workflow(info: workflow.Info) -> dict[str, _FieldValue | None]:
    return {
        "namespace": info.namespace,
        "task_queue": info.task_queue,
        "workflow_type": info.workflow_type,
        "workflow_id": info.workflow_id,
        "run_id": info.run_id,
        "attempt": info.attempt,
    }


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
