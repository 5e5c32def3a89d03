"""What the assertions on captured traces say when they do not hold."""

import json
from typing import Any

import pytest

from orkestra.otlp import ReceivedSpan, traces_of
from orkestra.testing import CapturedTrace

TRACE = "a" * 32


def span(number: int, name: str, parent: int | None = None, **attributes: Any) -> ReceivedSpan:
    named = {
        f"langfuse.observation.{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in attributes.items()
    }
    return ReceivedSpan(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        name=name,
        start_ns=number,
        end_ns=number + 1,
        attributes={"langfuse.trace.metadata.tenant_id": '"acme"', **named},
    )


def captured(*spans: ReceivedSpan) -> CapturedTrace:
    return CapturedTrace.of(TRACE, traces_of(spans)[TRACE])


ORDER = span(1, "workflow:Order", input=["book"], output="paid")
CHARGE = span(2, "activity:charge", 1, level="ERROR", status_message="CardError: declined")
AGAIN = span(3, "activity:charge", 1)


def test_a_trace_shows_its_spans_and_its_tenant():
    trace = captured(ORDER, CHARGE)
    assert trace.names == ["workflow:Order", "activity:charge"]
    assert trace.tenant == "acme"
    assert trace.outline() == "workflow:Order\n  activity:charge"


def test_assertions_that_hold_can_be_chained():
    trace = captured(ORDER, CHARGE).is_one_tree()
    trace.span("workflow:Order").succeeded().has_input("book").has_output("paid")
    trace.span("activity:charge").has_error("declined")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda t: t.span("workflow:Order").has_error(), "did not fail"),
        (lambda t: t.span("workflow:Order").has_input("pen"), r"\['book'\], not \['pen'\]"),
        (lambda t: t.span("workflow:Order").has_output("free"), "'paid', not 'free'"),
        (lambda t: t.span("workflow:Order").has_metadata(attempt=1), "'attempt': None"),
        (lambda t: t.span("workflow:Order").is_cancelled(), "status of workflow:Order is None"),
        (lambda t: t.span("activity:charge").succeeded(), "CardError: declined"),
        (lambda t: t.span("activity:charge").has_error("stolen"), "not with 'stolen'"),
        (lambda t: t.span("activity:ship"), "0 spans are named 'activity:ship', in\nworkflow"),
    ],
)
def test_a_failed_assertion_shows_what_was_found(check: Any, message: str):
    with pytest.raises(AssertionError, match=message):
        check(captured(ORDER, CHARGE))


def test_two_spans_of_one_name_need_the_plural_method():
    trace = captured(ORDER, CHARGE, AGAIN)
    assert [each.received.level for each in trace.spans("activity:charge")] == ["ERROR", "DEFAULT"]
    with pytest.raises(AssertionError, match="2 spans are named 'activity:charge'"):
        trace.span("activity:charge")


def test_a_missing_parent_makes_a_second_root():
    with pytest.raises(AssertionError, match="2 roots, not one"):
        captured(ORDER, span(4, "activity:lost", 9)).is_one_tree()


def test_a_span_that_was_sent_twice_is_no_tree():
    with pytest.raises(AssertionError, match="1 spans were sent twice"):
        captured(ORDER, CHARGE, CHARGE).is_one_tree()
