"""Ids that every process computes alike, and that no two things share."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orkestra.tracing import (
    activity_span_id,
    message_span_id,
    nanoseconds,
    trace_id_of,
    workflow_span_id,
)

TEXTS = st.text(max_size=40)
TIMES = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants it naive


def is_hex(value: str, digits: int) -> bool:
    return len(value) == digits and int(value, 16) > 0 and value == value.lower()


@given(TEXTS, TEXTS, TEXTS)
def test_trace_ids_are_well_formed_and_repeatable(namespace, workflow_id, run_id):
    made = trace_id_of(namespace, workflow_id, run_id)
    assert is_hex(made, 32)
    assert made == trace_id_of(namespace, workflow_id, run_id)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), unique=True, max_size=20))
def test_traces_of_different_executions_differ_however_their_parts_are_split(parts):
    assert len({trace_id_of(*each) for each in parts}) == len(parts)


@given(TEXTS, TEXTS, st.integers(1, 1000), TIMES)
def test_span_ids_are_well_formed_and_differ_by_kind(run_id, key, attempt, scheduled):
    made = [
        workflow_span_id(run_id),
        message_span_id(run_id, "signal", key),
        message_span_id(run_id, "update", key),
        activity_span_id(run_id, key, attempt, scheduled),
        activity_span_id(run_id, key, attempt + 1, scheduled),
        activity_span_id(run_id, key, attempt, scheduled + timedelta(microseconds=1)),
    ]
    assert all(is_hex(each, 16) for each in made)
    assert len(set(made)) == len(made)


def test_the_documented_scheme_is_the_one_in_use():
    """These ids are in Langfuse for good: changing the scheme would duplicate what is resent."""
    assert trace_id_of("default", "acme:order-1", "run") == "e4133ca96de4146cb9037ef558c4d0fe"
    assert workflow_span_id("run") == "b8390eb5be6983ce"
    assert message_span_id("run", "signal", 1) == "177d98a6a139d634"
    scheduled = datetime(2025, 1, 2, 3, 4, 5, 678901, UTC)
    assert activity_span_id("run", "1", 2, scheduled) == "ba299ebc7b68dc0e"


@given(TIMES)
def test_times_become_nanoseconds_exactly(time):
    value = nanoseconds(time)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value // 1000) == time
    assert value % 1000 == 0
