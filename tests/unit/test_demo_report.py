"""Counts and drawings of the demo."""

import io
from collections import Counter

from rich.console import Console

from orkestra.cli.options import tree_rows
from orkestra.dev.demo_report import print_tallies
from orkestra.dev.demo_stage import DemoTrace, Tally
from orkestra.testing import ReceivedSpan, traces_of
from support_desk.models import Resolution

TRACE = "0" * 32


def tally(started: int) -> Tally:
    return Tally(started, Counter({Resolution.ESCALATED: started}), Counter(), [1.0] * started)


def span(name: str, parent: str | None, start: int) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=TRACE,
        span_id=name,
        parent_id=parent,
        name=name,
        start_ns=start,
        end_ns=start + 1,
        attributes={},
    )


def test_a_percentile_is_the_time_within_which_that_share_of_the_tickets_ended() -> None:
    times = [float(number) for number in range(20, 0, -1)]
    assert Tally(seconds=times).percentile(0.5) == 10
    assert Tally(seconds=times).percentile(0.95) == 19
    assert Tally(seconds=times).percentile(1) == 20
    assert Tally(seconds=[3.0]).percentile(0.5) == 3
    assert Tally().percentile(0.5) is None


def test_tallies_add_up_and_only_what_the_desk_provides_for_is_expected() -> None:
    resolved = Counter({Resolution.ANSWERED_BY_HUMAN: 2, Resolution.ESCALATED: 1})
    one = Tally(4, resolved, Counter(UnknownCustomer=1), [1.0, 2.0])
    two = Tally(2, Counter(), Counter(TenantMismatch=2), [3.0])
    both = one + two
    assert (both.started, both.completed, both.escalated, both.failed) == (6, 2, 1, 3)
    assert both.seconds == [1.0, 2.0, 3.0]
    assert one.unexpected_failures == {}
    assert both.unexpected_failures == {"TenantMismatch": 2}


def test_the_table_of_thousands_of_tenants_stays_short_and_counts_them_all() -> None:
    console = Console(file=io.StringIO(), record=True, width=100)
    print_tallies(console, {f"tenant-{number}": tally(1 + number) for number in range(500)})
    lines = console.export_text().splitlines()
    assert len(lines) < 35
    assert any("tenant-499" in line and "500" in line for line in lines)
    assert any("480 others" in line for line in lines)
    [total] = [line for line in lines if line.split()[:1] == ["all"]]
    assert total.split()[1] == str(sum(range(1, 501)))


def test_a_trace_is_drawn_with_a_branch_for_each_span_in_the_order_of_their_starts() -> None:
    spans = [
        span("root", None, 0),
        span("late", "root", 9),
        span("early", "root", 1),
        span("below", "early", 2),
    ]
    trace = DemoTrace(TRACE, traces_of(spans)[TRACE])
    assert trace.is_whole
    drawn = [f"{branch}{tree.span.name}" for tree, branch, _ in tree_rows(trace.roots[0])]
    assert drawn == ["root", "├─ early", "│  └─ below", "└─ late"]


def test_a_trace_without_its_root_is_not_whole() -> None:
    orphan = DemoTrace(TRACE, traces_of([span("orphan", "gone", 1)])[TRACE])
    assert not orphan.is_whole
    assert not DemoTrace(TRACE, []).is_whole
