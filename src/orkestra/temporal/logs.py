"""`configure_logging()`: each log line says for which tenant, workflow or activity it was written.

The context is found when a line is logged, whichever logger it was logged with, so that lines of
libraries have it, too. Secrets and control characters never appear in a line.
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

_SHORTEST_SECRET_LENGTH: Final = 6


def configure_logging(
    *,
    level: int = logging.INFO,
    style: LogStyle = "auto",
    stream: TextIO | None = None,
    config: OrkestraConfig | None = None,
) -> None:
    """Configure the process's logging with the context of each line.

    Lines from workflow and activity code, with any logger, have the tenant, the workflow's ID, run
    and queue, the activity and its attempt. A replay does not log lines again. The handlers of the
    root logger are replaced.

    Only `orkestra worker` calls this for you. To keep your own handlers, add a
    `TaskContextFilter` to them instead.

    Args:
        level: Lowest level that is written.
        style: `json` is one object a line, `text` is for people; `auto` is text on a terminal.
        stream: Destination; None means standard error.
        config: Configuration whose secrets are hidden wherever they appear.
    """
    out = sys.stderr if stream is None else stream
    is_text = style == "text" or (style == "auto" and out.isatty())
    secrets = () if config is None else (*_secrets(config), *config.temporal.grpc_meta.values())
    handler = logging.StreamHandler(out)
    handler.setFormatter((TextFormatter if is_text else JsonFormatter)(secrets=_long(secrets)))
    handler.addFilter(TaskContextFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These would repeat in the message what the fields have.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False


def _long(secrets: Iterable[str]) -> list[str]:
    """Leave out short ones, which may be ordinary words and would hide half of the log."""
    return [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET_LENGTH]


def _secrets(settings: object) -> Iterator[str]:
    """Find every secret of the settings."""
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
"""Attribute of a log record with the context that `TaskContextFilter` found."""

_FieldValue = str | int


class TaskContextFilter(logging.Filter):
    """Filter that adds the context to each record, and drops records of a workflow's replay.

    Add it to a handler, not to a logger: filters of loggers do not see the records of their
    children.

    Example:
        ```python
        handler.addFilter(TaskContextFilter())  # your formatter finds record.task_context
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See base class."""
        if hasattr(record, CONTEXT):  # another handler has this filter, too
            return True
        if workflow.in_workflow() and workflow.unsafe.is_replaying_history_events():
            return False
        setattr(record, CONTEXT, task_context())
        return True


def task_context() -> Mapping[str, _FieldValue]:
    """Find the tenant, and the workflow or activity, of the calling code."""
    fields: dict[str, _FieldValue | None] = {"tenant": current_tenant()}
    if activity.in_activity():
        fields |= _activity_fields(activity.info())
    elif workflow.in_workflow():
        fields |= _workflow_fields(workflow.info())
    return {name: value for name, value in fields.items() if value is not None}


def _activity_fields(info: activity.Info) -> dict[str, _FieldValue | None]:
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


def _workflow_fields(info: workflow.Info) -> dict[str, _FieldValue | None]:
    return {
        "namespace": info.namespace,
        "task_queue": info.task_queue,
        "workflow_type": info.workflow_type,
        "workflow_id": info.workflow_id,
        "run_id": info.run_id,
        "attempt": info.attempt,
    }


_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}
_SDK_ATTRIBUTES: Final = frozenset(
    {CONTEXT, "temporal_workflow", "temporal_activity", "temporal_log", "workflow_info"}
    | {"activity_info"}
)
_HIDDEN: Final = "***"
_INDENT: Final = "    "


class _Formatter(logging.Formatter):
    """Common part of the formatters, which hides secrets."""

    def __init__(self, *, secrets: Collection[str] = ()) -> None:
        """Format records without the given secrets."""
        super().__init__()
        # The longest first, because one may contain another.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """Replace each secret in the text."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def exception_text(self, record: logging.LogRecord) -> str | None:
        """Format the traceback; None where there is none."""
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [record.stack_info] if record.stack_info else []
        return self.hide("\n".join(parts)) if parts else None

    def extra_fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Find the caller's `extra`."""
        return {
            name: _jsonable(value, self.hide)
            for name, value in vars(record).items()
            if name not in _STANDARD_ATTRIBUTES and name not in _SDK_ATTRIBUTES
        }


class JsonFormatter(_Formatter):
    """Formatter for log collectors: one JSON object a record, in ASCII.

    `time`, `level`, `logger` and `message` are always there; `tenant`, `namespace`, `task_queue`,
    `workflow_type`, `workflow_id`, `run_id`, `activity_type`, `activity_id` and `attempt` where
    there is one; `extra` and `exception` where there are some.
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
        if extra := self.extra_fields(record):
            fields["extra"] = extra
        if exception := self.exception_text(record):
            fields["exception"] = exception
        return json.dumps(fields)


class TextFormatter(_Formatter):
    """Formatter for people: one line a record, and the traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """See base class."""
        when = datetime.fromtimestamp(record.created).astimezone()
        context = _context(record)
        extra = {k: v for k, v in self.extra_fields(record).items() if k not in context}
        shown = "".join(f" {name}={value}" for name, value in {**extra, **context}.items())
        line = f"{when:%H:%M:%S} {record.levelname} {record.name}: "
        lines = [escaped(f"{line}{self.hide(record.getMessage())}{shown}")]
        if exception := self.exception_text(record):
            lines += [_INDENT + escaped(each) for each in exception.split("\n")]
        return "\n".join(lines)


def escaped(text: str) -> str:
    r"""Write the text on one line, with control characters as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _context(record: logging.LogRecord) -> Mapping[str, str | int]:
    found: Mapping[str, str | int] = getattr(record, CONTEXT, {})
    return found


def _jsonable(value: object, hide: Callable[[str], str]) -> Any:
    """Keep numbers, and turn the rest into text; never fail."""
    is_number = isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))
    if value is None or is_number:
        return value
    try:
        return hide(str(value))
    except Exception as error:  # noqa: BLE001 - one bad value must not lose the line
        return f"<{type(value).__name__}: {type(error).__name__}>"
