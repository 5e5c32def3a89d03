"""Reader of tickets from a JSONL file of any length, one ticket per line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from orkestra.tenancy import check_id, check_tenant_id
from support_desk.models import Channel, Ticket

_MAX_LINE: Final = 64 * 1024  # bytes


class TicketFileError(Exception):
    """A file of tickets cannot be used; the message names the line."""


@dataclass(frozen=True)
class FiledTicket:
    """A line of the file."""

    tenant: str
    ticket: Ticket
    follow_up: str | None
    """Next message of the customer, if the ticket has to wait."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    tenant: Annotated[str, AfterValidator(check_tenant_id)]
    id: Annotated[str, AfterValidator(check_id), Field(max_length=200)]
    customer: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=320)
    subject: str = Field(min_length=1, max_length=500)
    body: str = Field(min_length=1, max_length=20_000)
    channel: Channel = "email"
    answer_within_seconds: float = Field(default=3.0, gt=0, le=3600)
    follow_up: str | None = Field(default=None, max_length=20_000)


def read_tickets(path: Path) -> Iterator[FiledTicket]:
    """Read the tickets one by one, and skip blank lines.

    Raises:
        TicketFileError: The file cannot be read, has no tickets, or a line of it is malformed.
    """
    filed: set[tuple[str, str]] = set()
    try:
        with path.open("rb") as file:
            for number, text in _lines(file, path):
                line = _parse(text, f"{path}, line {number}")
                if (line.tenant, line.id) in filed:
                    msg = f"{path}, line {number}: {line.tenant!r} already has a ticket {line.id!r}"
                    raise TicketFileError(msg)
                filed.add((line.tenant, line.id))
                yield _filed(line)
    except OSError as error:
        msg = f"cannot read tickets from {str(path)!r}: {error.strerror}"
        raise TicketFileError(msg) from error
    if not filed:
        msg = f"{path} has no tickets: write one JSON object per line"
        raise TicketFileError(msg)


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while text := file.readline(_MAX_LINE + 1):
        number += 1
        if len(text) > _MAX_LINE:
            msg = f"{path}, line {number}: longer than {_MAX_LINE} bytes"
            raise TicketFileError(msg)
        if text.strip():
            yield number, text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text


def _parse(text: bytes, where: str) -> _Line:
    try:
        return _Line.model_validate_json(text)
    except ValidationError as error:
        msg = f"{where}: {_explain(error.errors(include_url=False)[0])}"
        raise TicketFileError(msg) from error


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(map(str, detail["loc"]))
    match detail["type"]:
        case "missing":
            return f"{key!r} is missing"
        case "extra_forbidden":
            return f"unknown key {key!r}"
        case "json_invalid":
            return re.sub(r" at line \d+ column (\d+)$", r" at column \1", detail["msg"])
        case _:
            reason = detail["msg"].removeprefix("Value error, ")
            return f"{key}: {reason}" if key else reason


def _filed(line: _Line) -> FiledTicket:
    values = line.model_dump(exclude={"tenant", "follow_up"})
    return FiledTicket(line.tenant, Ticket(**values), line.follow_up)
