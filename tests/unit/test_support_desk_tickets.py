"""What a file of tickets may hold, and how its mistakes are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from support_desk.tickets import TicketFileError, read_tickets

GOOD = {
    "tenant": "acme",
    "id": "1001",
    "customer": "dana@fabrikam.example",
    "subject": "Invoice",
    "body": "Where is it?",
}


def line(**values: Any) -> bytes:
    merged = {**GOOD, **values}
    return json.dumps({k: v for k, v in merged.items() if v is not None}).encode() + b"\n"


def problem_of(tmp_path: Path, content: bytes) -> str:
    file = tmp_path / "tickets.jsonl"
    file.write_bytes(content)
    with pytest.raises(TicketFileError) as caught:
        list(read_tickets(file))
    return str(caught.value).removeprefix(f"{file}")


def test_blank_lines_a_byte_order_mark_and_other_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "tickets.jsonl"
    first = line().replace(b"\n", b"\r\n")
    file.write_bytes(b"\xef\xbb\xbf" + first + b"\n  \n" + line(tenant="globex").rstrip())
    read = [(filed.tenant, filed.ticket.id) for filed in read_tickets(file)]
    assert read == [("acme", "1001"), ("globex", "1001")]


def test_tickets_are_read_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "tickets.jsonl"
    file.write_bytes(line() + b"{oops\n")
    tickets = read_tickets(file)
    assert next(tickets).ticket.subject == "Invoice"
    with pytest.raises(TicketFileError, match="line 2"):
        next(tickets)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{oops\n", ", line 1: Invalid JSON: key must be a string at column 2"),
        (line() + b"[]\n", ", line 2: Input should be an object"),
        (b"\n" + line(body=None), ", line 2: 'body' is missing"),
        (line(colour="red"), ", line 1: unknown key 'colour'"),
        (line(tenant="ACME"), ", line 1: tenant: tenant 'ACME' is malformed: use 1 to 63 of"),
        (line(id="a\nb"), ", line 1: id: ID 'a\\nb' has a control, format or surrogate character"),
        (line(customer="dana"), ", line 1: customer: String should match pattern"),
        (line(channel="fax"), ", line 1: channel: Input should be 'chat' or 'email'"),
        (line(answer_within_seconds=0), ", line 1: answer_within_seconds: Input should be greater"),
        (line() + line(), ", line 2: 'acme' already has a ticket '1001'"),
        (line(body="x" * 70_000), ", line 1: longer than 65536 bytes"),
        (b"\xff\xfe\n", ", line 1: Invalid JSON: expected value at column 1"),
        (b"", " has no tickets: write one JSON object per line"),
        (b"\n\n", " has no tickets: write one JSON object per line"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, content: bytes, problem: str) -> None:
    assert problem_of(tmp_path, content).startswith(problem)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    with pytest.raises(TicketFileError, match=r"missing\.jsonl': No such file"):
        list(read_tickets(missing))
    with pytest.raises(TicketFileError, match="Is a directory"):
        list(read_tickets(tmp_path))


def test_the_tickets_of_the_example_are_sound_and_share_their_numbers() -> None:
    file = Path(__file__).parents[2] / "examples/support_desk/tickets.jsonl"
    ids: dict[str, set[str]] = {}
    for filed in read_tickets(file):
        ids.setdefault(filed.tenant, set()).add(filed.ticket.id)
    assert len(ids) == 3
    assert ids["acme"] == ids["globex"] == ids["initech"]
