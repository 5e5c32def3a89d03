"""Masking and cutting of values."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from orkestra.langfuse.attributes import HIDDEN, Masker
from orkestra.tracing import Captured, capture

SECRET = "sk-abcdefghijklmnop"


def redact(*, data: object) -> object:
    return re.sub(r"sk-[a-p]{16}", "***", data) if isinstance(data, str) else data


def test_without_a_mask_values_stay_as_they_are():
    masker = Masker(None)
    assert masker.rendered(Captured({"a": [1, "ö"]}), 100) == '{"a":[1,"ö"]}'
    assert masker.rendered(Captured("text"), 100) == "text"
    assert not masker.is_on


def test_a_mask_that_only_knows_texts_reaches_every_text():
    shown = Masker(redact).rendered(Captured({"a": [1, SECRET, {"b": f"x{SECRET}"}]}), 1000)
    assert shown == '{"a":[1,"***",{"b":"x***"}]}'


def test_a_value_is_hidden_where_the_mask_raises_or_returns_nonsense():
    def broken(*, data: object) -> object:
        raise RuntimeError(SECRET)

    def endless(*, data: object) -> object:
        loop: list[object] = []
        loop.append(loop)
        return loop

    assert Masker(broken).rendered(Captured([SECRET]), 100) == HIDDEN
    assert Masker(broken).text(SECRET) == HIDDEN
    assert Masker(endless).rendered(Captured([SECRET]), 100) == HIDDEN


@given(st.integers(1, 3000), st.integers(60, 2000), st.booleans())
def test_no_half_of_a_secret_is_left_at_the_cut(before, limit, wrapped):
    text = "x" * before + SECRET + "y" * 100
    taken = capture([text] if wrapped else text, max_bytes=limit)
    shown = Masker(redact).rendered(taken, limit)
    assert "sk-" not in shown


@given(st.text(), st.integers(20, 100))
def test_a_value_that_is_sent_keeps_the_limit(text, limit):
    shown = Masker(None).rendered(capture(text, max_bytes=limit), limit)
    assert len(shown.encode()) <= limit
    assert json.dumps(shown)
