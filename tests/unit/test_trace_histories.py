"""Rebuilt traces without a server: drawing them, and deciding which spans to send."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.exceptions import ApplicationErrorCategory

from orkestra.cli.trace import branches_of, draw, load_converter, load_object
from orkestra.config import TenancySettings
from orkestra.errors import ConfigurationError, LangfuseUnavailableError
from orkestra.temporal.backfill import BackfillReport, PartialSpan
from orkestra.temporal.backfill.backfill import BackfillOptions, Uploader
from orkestra.temporal.backfill.history import PayloadDecoder, Timeline
from orkestra.temporal.backfill.rebuild import TenantResolver, failure_outcome, terminal_outcome
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    FinishedSpan,
    Level,
    Outcome,
    Span,
    SpanKind,
    TraceAttributes,
)

TRACE = "a" * 32
SECOND = 1_000_000_000
DEFAULTS = BackfillOptions(dry_run=False, force=False, older_than=timedelta())
EMPTY = BackfillReport(workflow_id="order", run_id="run")


def partial(
    number: int,
    *,
    parent: int | None = None,
    kind: SpanKind = SpanKind.ACTIVITY,
    name: str = "activity:x",
    start_ns: int = 0,
    took_ns: int | None = SECOND,
    outcome: Outcome | None = None,
    **metadata: Any,
) -> PartialSpan:
    span = Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        kind=kind,
        name=name,
        start_ns=start_ns,
        run_id="run",
        tenant="acme",
        attributes=TraceAttributes(),
        metadata=metadata,
    )
    if took_ns is None:
        return PartialSpan(span=span)
    return PartialSpan(span=span, outcome=outcome or Outcome(), end_ns=start_ns + took_ns)


def drawn(*spans: PartialSpan, width: int = 60) -> list[str]:
    out = StringIO()
    draw(Console(file=out, width=width, highlight=False), branches_of(spans))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_tree_has_a_line_for_each_span_with_its_times_and_status():
    workflow = {"kind": SpanKind.WORKFLOW, "name": "workflow:Order"}
    assert drawn(
        partial(1, took_ns=3723 * SECOND, workflow_id="acme:o", **workflow),
        partial(
            2, parent=1, start_ns=SECOND, attempt=3, outcome=terminal_outcome("cancelled", "why")
        ),
        partial(3, parent=1, start_ns=90 * SECOND, took_ns=SECOND // 100, is_local=True),
        partial(
            4, parent=3, start_ns=2 * SECOND, kind=SpanKind.SIGNAL, name="signal:go", took_ns=0
        ),
        partial(5, parent=1, start_ns=99 * SECOND, took_ns=None),
        partial(
            6,
            parent=1,
            start_ns=100 * SECOND,
            attempt=0,
            outcome=terminal_outcome("timed_out", "late"),
        ),
    ) == [
        f"trace {TRACE}       start  duration",
        "1970-01-01 00:00:00.000 UTC",
        "workflow:Order  acme:o                       +0 ms  1 h 02 m",
        "├─ activity:x  attempt 3  cancelled        +1.00 s    1.00 s",
        "│     why",
        "├─ activity:x  local                     +1 m 30 s     10 ms",
        "│  └─ signal:go                            +2.00 s         -",
        "├─ activity:x                            +1 m 39 s   running",
        "└─ activity:x  never started  timed out  +1 m 40 s    1.00 s",
        "      late",
    ]


def test_untrusted_text_is_drawn_without_control_characters_and_cut_to_the_width():
    nasty = "red \x1b[31m" + "漢" * 80
    lines = drawn(
        partial(1, name=f"activity:{nasty}", outcome=failure_outcome(ValueError(nasty))), width=50
    )
    assert not any("\x1b" in line for line in lines)
    assert r"\x1b[31m" in lines[2]
    assert all(Text(line).cell_len <= 50 for line in lines)


def test_deep_trees_do_not_outgrow_a_narrow_terminal():
    chain = [partial(number, parent=number - 1) for number in range(2, 40)]
    lines = drawn(partial(1), *chain, width=42)
    assert all(Text(line).cell_len <= 42 for line in lines)


class Project:
    """A project that knows what it has."""

    def __init__(self, present: Sequence[str] = (), *, takes: bool = True) -> None:
        self.limits = CaptureLimits()
        self.asked = 0
        self.emitted: list[str] = []
        self._present = frozenset(present)
        self._takes = takes

    def is_sampled(self, span: Span) -> bool:
        return span.name != "unsampled"

    def emit(self, record: FinishedSpan) -> None:
        self.emitted.append(record.span.span_id)

    async def flush(self, timeout: timedelta) -> bool:
        return self._takes

    async def present(self, trace_id: str, timeout: timedelta) -> frozenset[str]:
        self.asked += 1
        await asyncio.sleep(0)
        return self._present


async def test_existing_unended_recent_and_unsampled_spans_are_counted_and_not_sent():
    project = Project(present=[f"{1:016x}"])
    now = partial(4)
    recent = replace(now, end_ns=2**62)
    report = await Uploader(DEFAULTS).upload(
        EMPTY,
        [
            partial(1),
            partial(2),
            partial(3, took_ns=None),
            recent,
            partial(5, name="unsampled"),
        ],
        project,
        {},
    )
    assert project.emitted == [f"{2:016x}"]
    assert (report.sent, report.present, report.unended) == (1, 1, 1)
    assert (report.recent, report.unsampled) == (1, 1)


async def test_concurrent_uploads_of_one_span_send_it_once():
    project, uploader = Project(), Uploader(DEFAULTS)
    await asyncio.gather(
        *(uploader.upload(EMPTY, [partial(1)], project, {}) for _ in range(3)),
    )
    assert project.emitted == [f"{1:016x}"]


async def test_langfuse_is_asked_once_a_report_and_not_at_all_with_force():
    project, existing = Project(), {}
    for number in (1, 2):
        await Uploader(DEFAULTS).upload(EMPTY, [partial(number)], project, existing)
    assert project.asked == 1
    forced = replace(DEFAULTS, force=True, older_than=timedelta(days=36500))
    await Uploader(forced).upload(EMPTY, [partial(3)], project, {})
    assert project.asked == 1
    assert len(project.emitted) == 3


async def test_a_dry_run_sends_nothing_and_says_so():
    project = Project()
    report = await Uploader(replace(DEFAULTS, dry_run=True)).upload(
        EMPTY, [partial(1)], project, {}
    )
    assert project.emitted == []
    assert (report.sent, len(report.missing), report.as_dict()["sent"]) == (0, 1, 0)


async def test_spans_that_are_not_accepted_are_an_error():
    with pytest.raises(LangfuseUnavailableError, match="did not accept"):
        await Uploader(DEFAULTS).upload(EMPTY, [partial(1)], Project(takes=False), {})


class Broken(PayloadCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        raise RuntimeError("no key")


async def test_unreadable_payloads_are_replaced_by_their_size():
    context = WorkflowSerializationContext("default", "order")
    good = PayloadDecoder(DataConverter.default, context)
    payloads = Payloads(
        payloads=[
            Payload(metadata={"encoding": b"json/plain"}, data=b'{"a": 1}'),
            Payload(metadata={"encoding": b"binary/odd"}, data=b"12345"),
        ]
    )
    assert await good.arguments(payloads) == [{"a": 1}, "<5 bytes of binary/odd>"]
    assert await good.result(None) is None
    broken = PayloadDecoder(replace(DataConverter.default, payload_codec=Broken()), context)
    assert await broken.result(Payloads(payloads=payloads.payloads[:1])) == (
        "<8 bytes of json/plain>"
    )


class OfWorkflow(Broken, WithSerializationContext):
    """A codec that chooses its key by the workflow's ID."""

    def with_context(self, context: SerializationContext) -> "OfWorkflow":
        made = OfWorkflow()
        made.key = context
        return made

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        data = json.dumps(self.key.workflow_id).encode()
        return [Payload(metadata={"encoding": b"json/plain"}, data=data) for _ in payloads]


async def test_payloads_are_decoded_in_the_context_of_their_workflow():
    converter = replace(DataConverter.default, payload_codec=OfWorkflow())
    values = PayloadDecoder(converter, WorkflowSerializationContext("default", "order"))
    assert await values.arguments(Payloads(payloads=[Payload(), Payload()])) == ["order", "order"]


def header(tenant: str) -> dict[str, Payload]:
    data = json.dumps(tenant).encode()
    return {"tenantId": Payload(metadata={"encoding": b"json/plain"}, data=data)}


@pytest.mark.parametrize(
    ("mode", "tenant", "headers", "is_dropped"),
    [
        ("required", "acme", header("acme"), False),
        ("required", "acme", header("beta"), True),
        ("required", "acme", header("Not a tenant"), True),
        ("required", "acme", {}, True),
        ("optional", "acme", {}, False),
        ("optional", "acme", header("beta"), True),
        ("required", None, {}, False),
        ("optional", None, header("beta"), True),
        ("off", None, header("beta"), False),
    ],
)
def test_a_signal_of_another_tenant_was_dropped(mode, tenant, headers, is_dropped):
    reader = TenantResolver(TenancySettings(mode=mode))
    assert reader.is_dropped(headers, tenant) is is_dropped


async def test_a_failure_keeps_its_type_message_and_causes_and_is_not_changed():
    failure = Failure(
        message="it broke",
        application_failure_info=ApplicationFailureInfo(type="Broken"),
        cause=Failure(message="deeper"),
    )
    before = failure.SerializeToString()
    values = PayloadDecoder(DataConverter.default, WorkflowSerializationContext("default", "order"))
    outcome = failure_outcome(await values.failure(failure))
    assert failure.SerializeToString() == before
    assert outcome.level is Level.ERROR
    assert isinstance(outcome.message, Captured)
    assert str(outcome.message.value).startswith("Broken: it broke; caused by ")
    failure.application_failure_info.category = ApplicationErrorCategory.BENIGN.value
    assert failure_outcome(await values.failure(failure)).level is Level.WARNING


@pytest.mark.parametrize("place", ["no_such_module:x", "json:no_such_name", "json", ":x", ""])
def test_an_option_that_names_something_that_cannot_be_imported_is_bad_input(place):
    with pytest.raises(ConfigurationError, match="--mask"):
        load_object(place, "--mask")


def test_a_data_converter_must_be_one():
    place = "temporalio.contrib.pydantic:pydantic_data_converter"
    assert load_converter(place) is pydantic_data_converter
    assert load_converter(None) is DataConverter.default
    with pytest.raises(ConfigurationError, match="name a DataConverter"):
        load_converter("json:dumps")


def test_abandoned_spans_are_distinguished_from_running_ones():
    left = replace(partial(2, parent=1, took_ns=None), is_abandoned=True)
    lines = drawn(partial(1), left, partial(3, parent=1, took_ns=None))
    assert [line.split()[-1] for line in lines[-2:]] == ["abandoned", "running"]
    [root] = branches_of([partial(1), left])
    assert [child["status"] for child in root.as_dict()["children"]] == ["abandoned"]


def at(second: int, number: int, **attributes: Any) -> HistoryEvent:
    made = HistoryEvent(event_id=number, **attributes)
    made.event_time.FromSeconds(second)
    return made


def test_a_local_activity_begins_before_the_heartbeat_also_where_another_poll_got_the_next_task():
    times = {
        "original_schedule_time": {"seconds": 11, "nanos": 0},
        "complete_time": {"seconds": 19, "nanos": 0},
    }
    said = {"activity_id": "1", "activity_type": "linger", "attempt": 1, **times}
    marker = {"data": Payloads(payloads=[Payload(data=json.dumps(said).encode())])}
    task = {"event_type": EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED}
    first = {"scheduled_event_id": 2, "started_event_id": 3}
    second = {"scheduled_event_id": 5, "started_event_id": 6}
    events = [
        at(10, 1, workflow_execution_started_event_attributes={}),
        at(10, 2, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED),
        at(10, 3, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED),
        at(18, 4, **task, workflow_task_completed_event_attributes=first),
        at(18, 5, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED),
        at(18, 6, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED),
        at(19, 7, **task, workflow_task_completed_event_attributes=second),
        at(
            19,
            8,
            marker_recorded_event_attributes={
                "marker_name": "core_local_activity",
                "details": marker,
                "workflow_task_completed_event_id": 7,
            },
        ),
    ]
    assert Timeline(events).at[8] == 10 * 10**9
