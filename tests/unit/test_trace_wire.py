"""The bytes that spans are written as are the ones that protobuf would write."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from orkestra.config import LangfuseSettings
from orkestra.langfuse.encode import Envelope, encoded, value_of
from tests.support.traced_worker import record_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
LONG = st.integers(100, 70_000).map(lambda length: "x" * length)
VALUES = st.one_of(
    TEXTS,
    LONG,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3),
)
IDS = st.binary(min_size=8, max_size=8).filter(any)
TIMES = st.integers(0, 2**63 - 1)


@given(
    trace=st.binary(min_size=16, max_size=16),
    span=IDS,
    parent=st.none() | IDS,
    name=TEXTS,
    times=st.tuples(TIMES, TIMES),
    attributes=st.dictionaries(TEXTS, VALUES, max_size=5),
    failure=st.none() | TEXTS | LONG,
)
def test_a_written_span_reads_as_what_was_to_be_said(
    trace, span, parent, name, times, attributes, failure
):
    start, end = times
    record = record_of()
    ids = replace(
        record.span,
        trace_id=trace.hex(),
        span_id=span.hex(),
        parent_id=parent and parent.hex(),
        start_ns=start,
    )
    written = encoded(replace(record, span=ids, end_ns=end), name, attributes, failure)
    expected = Span(
        trace_id=trace,
        span_id=span,
        parent_span_id=parent or b"",
        name=name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=start,
        end_time_unix_nano=max(start, end),
        attributes=[KeyValue(key=key, value=value_of(value)) for key, value in attributes.items()],
    )
    if failure is not None:
        expected.status.CopyFrom(Status(message=failure, code=Status.STATUS_CODE_ERROR))
    assert Span.FromString(written) == expected


@given(st.lists(TEXTS, max_size=4), st.sampled_from([None, "staging"]))
def test_a_request_holds_its_spans_in_order_and_says_who_sends_them(names, environment):
    settings = LangfuseSettings(public_key="pk", secret_key="sk", environment=environment)
    spans = [encoded(record_of(), name, {}, None) for name in names]
    request = ExportTraceServiceRequest.FromString(Envelope(settings).around(spans))
    [of_resource] = request.resource_spans
    [of_scope] = of_resource.scope_spans
    assert [span.name for span in of_scope.spans] == names
    told = {pair.key: pair.value.string_value for pair in of_resource.resource.attributes}
    assert told.get("langfuse.environment") == environment
    scope = {pair.key: pair.value.string_value for pair in of_scope.scope.attributes}
    assert scope == {"public_key": "pk"}


def test_attributes_that_compare_equal_stay_what_they_are():
    written = [encoded(record_of(), "n", {"k": value}, None) for value in (1, 1.0, True, "1")]
    kinds = [Span.FromString(each).attributes[0].value.WhichOneof("value") for each in written]
    assert kinds == ["int_value", "double_value", "bool_value", "string_value"]
