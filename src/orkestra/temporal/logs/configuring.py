"""`configure_logging()`: the whole process's logging, for whoever asks for it."""

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TextIO, TypeAlias

from pydantic import BaseModel, SecretStr
from temporalio import activity, workflow

from orkestra.config import OrkestraConfig
from orkestra.temporal.logs.context import TaskContextFilter
from orkestra.temporal.logs.formatting import JsonFormatter, TextFormatter

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
