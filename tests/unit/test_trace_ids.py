"""Ids of traces and spans: the same in every process, and unique."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orkestra.temporal.backfill.history import LocalActivityTimes, WorkflowClock
from orkestra.tracing import (
    AttemptFacts,
    RunFacts,
    RunSpans,
    Span,
    TraceContext,
    activity_span,
    nanoseconds,
    trace_id_of,
    ui_link,
    workflow_span_id,
)

TEXTS = st.text(max_size=40)
TIMES = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants it naive
MOMENTS = st.integers(10**15, 2**62)
SECOND = 10**9

RUN = RunFacts(
    namespace="default",
    workflow_id="acme:order-1",
    run_id="run",
    first_run_id="run",
    workflow_type="Order",
    task_queue="orders",
    start_ns=1735787045_678901_000,
    tenant="acme",
)
ATTEMPT = AttemptFacts(
    namespace="default",
    workflow_id="acme:order-1",
    workflow_type="Order",
    run_id="run",
    activity_id="1",
    activity_type="ship",
    task_queue="orders",
    attempt=2,
    start_ns=1735787045_678901_000,
)


def is_hex(value: str, digits: int) -> bool:
    return len(value) == digits and int(value, 16) > 0 and value == value.lower()


def every_span(run_id: str, key: str, start_ns: int) -> list[Span]:
    """One span of each kind, all named and keyed alike."""
    spans = RunSpans(replace(RUN, run_id=run_id))
    attempt = replace(ATTEMPT, run_id=run_id, activity_id=key, attempt=1, start_ns=start_ns)
    return [
        spans.workflow(),
        spans.signal("x", key=key, start_ns=start_ns),
        spans.update("x", update_id=key, start_ns=start_ns),
        spans.query("x", query_id=key, start_ns=start_ns),
        spans.timer(timer_id=key, start_ns=start_ns, seconds=1.0),
        spans.nexus(number=1, endpoint="e", service="s", operation="o", start_ns=start_ns),
        spans.nexus(number=2, endpoint="e", service="s", operation="o", start_ns=start_ns),
        spans.child("x", child_id=key, start_ns=start_ns),
        spans.child("x", child_id=key, start_ns=start_ns + 1000),
        spans.undelivered("x", workflow_id=key, start_ns=start_ns),
        activity_span(attempt),
        activity_span(replace(attempt, attempt=2)),
        activity_span(replace(attempt, start_ns=start_ns + 1000)),
    ]


@given(TEXTS, TEXTS, TEXTS)
def test_trace_ids_are_well_formed_and_repeatable(namespace, workflow_id, run_id):
    made = trace_id_of(namespace, workflow_id, run_id)
    assert is_hex(made, 32)
    assert made == trace_id_of(namespace, workflow_id, run_id)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), unique=True, max_size=20))
def test_traces_of_different_executions_differ_however_their_parts_are_split(parts):
    assert len({trace_id_of(*each) for each in parts}) == len(parts)


@given(TEXTS, TEXTS, MOMENTS)
def test_spans_of_all_kinds_have_well_formed_ids_that_differ(run_id, key, start_ns):
    ids = [span.span_id for span in every_span(run_id, key, start_ns)]
    assert all(is_hex(each, 16) for each in ids)
    assert len(set(ids)) == len(ids)


@given(TEXTS, TEXTS, MOMENTS, st.integers(0, 999))
def test_spans_are_the_same_whatever_the_precision_of_the_clock(run_id, key, start_ns, more):
    whole = start_ns // 1000 * 1000
    exact, cut = every_span(run_id, key, whole + more), every_span(run_id, key, whole)
    assert exact == cut
    assert all(span.start_ns % 1000 == 0 for span in exact)


@given(TEXTS, st.booleans(), st.booleans())
def test_a_chain_is_one_tree_below_its_first_run_or_its_caller(first, is_first, has_caller):
    caller = TraceContext(trace_id="a" * 32, span_id="b" * 16) if has_caller else TraceContext()
    run_id = first if is_first else first + "-later"
    spans = RunSpans(replace(RUN, run_id=run_id, first_run_id=first, carried=caller))
    own = spans.workflow()

    assert own.parent_id == (caller.span_id if is_first else workflow_span_id(first))
    assert own.trace_id == (caller.trace_id or trace_id_of("default", "acme:order-1", first))
    inside = spans.signal("x", key=1, start_ns=1)
    assert (inside.trace_id, inside.parent_id) == (own.trace_id, own.span_id)
    activity = activity_span(replace(ATTEMPT, run_id=run_id, carried=spans.context))
    assert (activity.trace_id, activity.parent_id) == (own.trace_id, own.span_id)


def test_an_attempt_without_a_header_is_a_child_of_its_run():
    own = RunSpans(RUN).workflow()
    alone = activity_span(ATTEMPT)
    assert (alone.trace_id, alone.parent_id) == (own.trace_id, own.span_id)
    standalone = activity_span(replace(ATTEMPT, workflow_id=None, workflow_type=None))
    assert standalone.parent_id is None
    assert standalone.trace_id == trace_id_of("default", "1", "run")


def test_a_nexus_operation_is_the_span_that_its_header_names():
    spans = RunSpans(RUN)
    about = {"endpoint": "e", "service": "s", "operation": "o", "start_ns": 1}
    named = spans.nexus(number=7, **about)
    header = TraceContext(trace_id=named.trace_id, span_id=named.span_id)
    assert spans.nexus(number=1, carried=header, **about) == named


def test_the_documented_scheme_is_the_one_in_use():
    """These ids are in Langfuse for good: changing the scheme would duplicate what is resent."""
    assert trace_id_of("default", "acme:order-1", "run") == "e4133ca96de4146cb9037ef558c4d0fe"
    start_ns = 1735787045_678901_000
    named = {span.kind.value: span.span_id for span in every_span("run", "1", start_ns)[::-1]}
    assert named == {
        "activity": "cfd0714a0957e0b8",
        "child": "7a51415d11ab965a",
        "nexus": "5c766125c9881b33",
        "query": "5dabacd6ff625b3e",
        "signal": "177d98a6a139d634",
        "timer": "b29c4dcf482c7bc6",
        "undelivered": "d67372e652ffb40a",
        "update": "9cf355f48507b675",
        "workflow": "b8390eb5be6983ce",
    }


def test_span_names_begin_with_their_kind():
    assert sorted(span.name for span in every_span("run", "1", 1)[:8]) == [
        "child:x",
        "nexus:s/o",
        "nexus:s/o",
        "query:x",
        "signal:x",
        "timer",
        "update:x",
        "workflow:Order",
    ]


def test_a_workflow_links_to_its_page_and_no_other_span_does():
    spans = RunSpans(replace(RUN, ui_url="http://localhost:8233/"))
    link = "http://localhost:8233/namespaces/default/workflows/acme%3Aorder-1/run"
    assert spans.workflow().metadata["temporal_ui"] == link
    assert "temporal_ui" not in spans.signal("x", key=1, start_ns=1).metadata
    assert "temporal_ui" not in RunSpans(RUN).workflow().metadata
    odd = ui_link("https://x", "n/1", "a/b?c", "r")
    assert odd == "https://x/namespaces/n%2F1/workflows/a%2Fb%3Fc/r"


@given(TIMES)
def test_times_become_nanoseconds_exactly(time):
    value = nanoseconds(time)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value // 1000) == time
    assert value % 1000 == 0


def marker(scheduled: float, completed: float, index: int | None = None) -> LocalActivityTimes:
    """Worker's clock in seconds; the server's is 100 seconds behind."""
    return LocalActivityTimes(
        scheduled_wall_ns=int(scheduled * SECOND),
        completed_ns=int((completed - 100) * SECOND),
        activation_index=index,
    )


def test_the_clock_stands_at_the_start_of_the_task_and_moves_with_local_activities():
    clock = WorkflowClock()
    first, both, second = marker(101.1, 102), marker(101.1001, 104), marker(102.2, 105)
    clock.task_completed(1 * SECOND, (first, both, second))

    assert clock.delivered_ns == 1 * SECOND
    assert clock.local_activity(first) == 1 * SECOND
    assert clock.now_ns == 2 * SECOND
    assert clock.local_activity(both) == 1 * SECOND, "it ran beside the first"
    assert clock.now_ns == 4 * SECOND
    assert clock.local_activity(second) == 2 * SECOND, "it was scheduled after the first"
    assert clock.now_ns == 5 * SECOND

    clock.task_completed(9 * SECOND)
    assert clock.now_ns == clock.delivered_ns == 9 * SECOND
    clock.task_completed(8 * SECOND)
    assert clock.now_ns == 9 * SECOND, "it never goes back"


def test_what_comes_with_the_end_of_a_local_activity_is_delivered_after_it():
    clock = WorkflowClock()
    ran = LocalActivityTimes(
        scheduled_wall_ns=2 * SECOND, completed_ns=12 * SECOND, activation_index=0
    )
    clock.task_completed(1 * SECOND)
    clock.task_completed(11 * SECOND, (ran,), is_beat=True)
    assert clock.delivered_ns == 12 * SECOND
    assert clock.local_activity(ran) == 1 * SECOND, "it was scheduled in the task before"


def test_a_local_activity_that_backs_off_begins_when_it_was_first_scheduled():
    clock = WorkflowClock()
    clock.task_completed(1 * SECOND)
    assert clock.local_activity(marker(101.5, 102)) == 1 * SECOND
    clock.task_completed(60 * SECOND)
    assert clock.local_activity(marker(101.5, 161)) == 1 * SECOND
