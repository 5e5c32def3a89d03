"""What all sections of the configuration are made of."""

import re
from datetime import timedelta
from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    return value


Duration = Annotated[timedelta, BeforeValidator(_parse_duration), Field(ge=timedelta())]
"""A duration of zero or more: a timedelta, seconds, or text such as `30s`, `250ms`, `5m`, `1h`."""


class Section(BaseModel):
    """Settings that are frozen, and know all their keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        regex_engine="python-re",
    )
