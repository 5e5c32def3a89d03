"""The OTLP request in which spans leave."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from orkestra.config import LangfuseSettings
from orkestra.langfuse.attributes import ThirdPartySpans
from orkestra.langfuse.encode import EncodedSpans, SpanEncoder, any_value
from orkestra.tracing import FinishedSpan, Level, Outcome, capture
from tests.support.traced_worker import record_of


def encoder(environment: str | None = None) -> SpanEncoder:
    settings = LangfuseSettings(public_key="pk", secret_key="sk", environment=environment)
    return SpanEncoder(settings)


def span_of(encoded: EncodedSpans) -> Span:
    assert isinstance(encoded.message, Span)
    return encoded.message


def test_a_span_is_encoded_with_its_ids_times_and_status():
    begun = record_of().span
    failed = Outcome(level=Level.ERROR, message=capture("it broke", max_bytes=100))
    span = span_of(encoder().encode(FinishedSpan(span=begun, outcome=failed, end_ns=9)))
    assert span.trace_id.hex() == begun.trace_id
    assert span.span_id.hex() == begun.span_id
    assert span.parent_span_id.hex() == (begun.parent_id or "")
    assert (span.name, span.kind) == (begun.name, Span.SPAN_KIND_INTERNAL)
    assert span.start_time_unix_nano == begun.start_ns
    assert span.end_time_unix_nano == max(begun.start_ns, 9)
    assert span.status == Status(message="it broke", code=Status.STATUS_CODE_ERROR)


@pytest.mark.parametrize("environment", [None, "staging"])
def test_a_request_holds_its_spans_in_order_and_says_who_sends_them(environment):
    on = encoder(environment)
    names = ["a", "b", "c"]
    request = ExportTraceServiceRequest.FromString(
        on.request([on.encode(record_of(name=name)) for name in names])
    )
    [of_resource] = request.resource_spans
    [of_scope] = of_resource.scope_spans
    assert [span.name for span in of_scope.spans] == names
    resource = {pair.key: pair.value.string_value for pair in of_resource.resource.attributes}
    assert resource.get("langfuse.environment") == environment
    scope = {pair.key: pair.value.string_value for pair in of_scope.scope.attributes}
    assert scope == {"public_key": "pk"}


def test_third_party_spans_keep_their_own_resource_and_scope():
    others = ExportTraceServiceRequest()
    scope_spans = others.resource_spans.add().scope_spans.add()
    scope_spans.scope.name = "an-instrumentation"
    scope_spans.spans.add(name="chat")
    on = encoder()
    encoded = [
        on.encode(record_of(name="a")),
        on.encode(ThirdPartySpans(None, others.SerializeToString(), 1)),
    ]
    request = ExportTraceServiceRequest.FromString(on.request(encoded))
    found = {
        of_scope.scope.name: [span.name for span in of_scope.spans]
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
    }
    assert found == {"an-instrumentation": ["chat"], "langfuse-sdk": ["a"]}


def test_attributes_that_compare_equal_keep_their_types():
    kinds = [any_value(value).WhichOneof("value") for value in (1, 1.0, True, "1", ["1"])]
    assert kinds == ["int_value", "double_value", "bool_value", "string_value", "array_value"]
