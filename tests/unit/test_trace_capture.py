"""Snapshots of values: bounded in size and time, and without side effects."""

import enum
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from orkestra.tracing import capture, capture_error

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_values_are_captured_unchanged(value):
    assert capture(value, max_bytes=100_000) == type(capture(1, max_bytes=9))(value)


@given(JSON, st.integers(0, 50))
def test_a_snapshot_keeps_its_limit_and_says_when_it_is_cut(value, limit):
    taken = capture(value, max_bytes=limit)
    whole = capture(value, max_bytes=1_000_000)
    assert taken.is_cut or taken == whole
    leaves = sum(len(text) for text in _texts(taken.value))
    assert leaves <= limit


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    when: datetime


class Model(BaseModel):
    name: str
    password: SecretStr = SecretStr("hidden")


class Plain:
    def __init__(self) -> None:
        self.shown = 1
        self._private = 2

    @property
    def computed(self) -> int:
        raise AssertionError


class Slotted:
    __slots__ = ("x",)


def test_objects_are_captured_by_their_public_attributes():
    value = [
        Colour.RED,
        Point(1, datetime(2025, 1, 2, tzinfo=UTC)),
        Model(name="n"),
        Plain(),
        Slotted(),
        Decimal("1.50"),
        UUID(int=1),
        b"12345",
        {3: (1, 2)},
        ValueError("no"),
        float("inf"),
        2**60,
        1 << 5000,
        object,
    ]
    assert capture(value, max_bytes=10_000).value == [
        "red",
        {"x": 1, "when": "2025-01-02 00:00:00+00:00"},
        {"name": "n", "password": "<SecretStr>"},
        {"shown": 1},
        "<Slotted>",
        "1.50",
        "00000000-0000-0000-0000-000000000001",
        "<5 bytes>",
        {"3": [1, 2]},
        "ValueError: no",
        "inf",
        str(2**60),
        "<integer of 5001 bits>",
        "<type>",
    ]


def test_an_endless_value_is_captured_in_bounded_time():
    endless: list[Any] = []
    endless.append(endless)
    huge = {"text": "x" * 50_000_000, "numbers": list(range(1_000_000))}
    lists = [[index] for index in range(1_000_000)]
    began = time.process_time()
    assert len(json.dumps(capture(endless, max_bytes=32_768).value)) < 100
    taken = capture(huge, max_bytes=32_768)
    many = capture(lists, max_bytes=32_768)
    assert time.process_time() - began < 1
    assert taken.is_cut
    assert many.is_cut
    assert len(json.dumps(taken.value)) < 40_000


def test_errors_are_captured_with_their_causes():
    error = RuntimeError("could not")
    error.__cause__ = KeyError("lost")
    taken = capture_error(error, max_bytes=1000)
    cut = capture_error(error, max_bytes=10)
    assert taken.value == "RuntimeError: could not; caused by KeyError: 'lost'"
    assert (cut.value, cut.is_cut) == ("RuntimeErr", True)


def test_an_error_whose_message_raises_is_captured_by_its_type():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert capture_error(MuteError(), max_bytes=100).value == "MuteError"


def test_an_error_whose_attributes_raise_is_captured_by_its_type():
    class ShyError(Exception):
        @property
        def type(self) -> str:
            raise ZeroDivisionError

    error = RuntimeError("could not")
    error.__cause__ = ShyError("no")
    assert (
        capture_error(error, max_bytes=100).value == "RuntimeError: could not; caused by ShyError"
    )


class Blocking(dict[str, int]):
    def items(self) -> Any:
        raise AssertionError

    def __iter__(self) -> Any:
        raise AssertionError


class Lazy(list[int]):
    def __iter__(self) -> Any:
        raise AssertionError


@dataclass
class Odd:
    given: int

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError


class Classless:
    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError


def test_capturing_runs_no_code_of_the_value_and_an_odd_part_hides_no_other():
    value = [Blocking(a=1), Lazy([1, 2]), Odd(1), {"b": Classless()}]
    shown = capture(value, max_bytes=1000)
    assert shown.value == [{"a": 1}, [1, 2], "<Odd>", {"b": "<Classless>"}]
    assert not shown.is_cut
