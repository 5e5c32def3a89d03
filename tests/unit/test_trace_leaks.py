"""A secret in any field of a span is masked in the bytes that leave."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langfuse import LangfuseOtelSpanAttributes as Sdk
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.langfuse.attributes import HIDDEN, ThirdPartySpans
from orkestra.langfuse.encode import SpanEncoder
from orkestra.tracing import (
    FinishedSpan,
    Level,
    Outcome,
    Span,
    SpanKind,
    TraceAttributes,
    capture,
    capture_error,
)

SECRET = 'canary "ü\\'
FORMS = [
    SECRET.encode(),
    json.dumps(SECRET)[1:-1].encode(),
    json.dumps(SECRET, ensure_ascii=False)[1:-1].encode(),
]


def redact(*, data: object) -> object:
    """As many masks are: it only knows texts."""
    return data.replace(SECRET, "***") if isinstance(data, str) else data


def broken(*, data: object) -> object:
    raise ValueError(data)


def encoder(mask: Callable[..., Any] | None = redact, **settings: Any) -> SpanEncoder:
    keys = {"public_key": "pk", "secret_key": "sk", "base_url": "http://127.0.0.1:1"}
    return SpanEncoder(LangfuseSettings.model_validate({**keys, "mask": mask, **settings}))


PLAIN, REDACTING, HIDING = encoder(None), encoder(), encoder(broken)


def leaks(content: bytes) -> bool:
    return any(form in content for form in FORMS)


def span(**changes: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": "1" * 32,
        "span_id": "2" * 16,
        "parent_id": None,
        "kind": SpanKind.ACTIVITY,
        "name": "activity:charge",
        "start_ns": 1,
        "run_id": "run",
        "tenant": "acme",
        "attributes": TraceAttributes(),
        "metadata": {},
    }
    return Span(**{**fields, **changes})


def sent(
    on: SpanEncoder,
    begun: Span,
    outcome: Outcome | None = None,
    added: dict[str, object] | None = None,
) -> bytes:
    finished = FinishedSpan(span=begun, outcome=outcome or Outcome(), end_ns=2, added=added or {})
    return on.encode(finished).message.SerializeToString()


texts = st.builds("{}{}{}".format, st.text(max_size=5), st.just(SECRET), st.text(max_size=5))
leaves = texts | st.none() | st.booleans() | st.integers() | st.floats() | texts.map(Exception)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(values, texts, texts, st.sampled_from([REDACTING, HIDING]))
def test_no_field_of_an_orkestra_span_leaks(value, text, other, on):
    cause = RuntimeError(text)
    error = ValueError(other)
    error.__cause__ = cause
    begun = span(
        name=f"activity:{text}",
        attributes=TraceAttributes(
            user_id=text, session_id=other, tags=(text,), metadata={other: text}
        ),
        metadata={"workflow_id": text, "update_id": other},
        input=capture(value, max_bytes=10_000),
    )
    outcome = Outcome(
        level=Level.ERROR,
        message=capture_error(error, max_bytes=4096),
        output=capture({text: [value]}, max_bytes=10_000),
        metadata={"status": text},
    )
    added = {text: other, f"{names.METADATA}.{other}": json.dumps({text: other})}
    assert not leaks(sent(on, begun, outcome, added))
    assert leaks(sent(PLAIN, begun, outcome, added))


@settings(deadline=None)
@given(values.map(lambda value: json.dumps(value, default=str)), texts, texts)
def test_no_field_of_a_third_party_span_leaks(written, text, other):
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.append(pair("process.command", text))
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = other
    made = of_scope.spans.add(name=text, trace_state=f"a={text}")
    made.status.message = other
    for key in ("gen_ai.prompt", names.INPUT, names.TRACE_USER, f"{names.METADATA}.{text}", text):
        made.attributes.append(pair(key, written))
    made.attributes.append(pair(names.TRACE_METADATA, json.dumps({text: other})))
    tags = made.attributes.add(key=names.TRACE_TAGS).value.array_value.values
    tags.add(string_value=text)
    nested = made.attributes.add(key="nested").value.kvlist_value.values
    nested.append(pair(text, other))
    made.attributes.add(key="raw").value.bytes_value = text.encode()
    event = made.events.add(name=text)
    event.attributes.append(pair("exception.stacktrace", f'File "x"\n  {other}'))
    made.links.add(trace_state=f"b={text}").attributes.append(pair("of", other))
    item = ThirdPartySpans("acme", request.SerializeToString(), 1)

    for on in (REDACTING, HIDING):
        assert not leaks(on.encode(item).message.SerializeToString())
    assert leaks(PLAIN.encode(item).message.SerializeToString())


def pair(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


DEEP = "[" * 200_000  # deeper than any Python reads: 3.14 reads 20,000 levels


@pytest.mark.parametrize(
    ("key", "value", "left"),
    [
        (f"{names.METADATA}.tenant_id", '"beta"', None),
        (f"{names.METADATA}.tenant", '"beta"', '"beta"'),
        (names.METADATA, '{"tenant_id": "beta", "plan": "gold"}', '{"plan": "gold"}'),
        (names.METADATA, '"beta"', '"beta"'),
        (names.METADATA, "beta", "beta"),
        (names.METADATA, f'{{"tenant_id": "beta", "a": {DEEP}', None),
        (names.TRACE_METADATA, '{"tenant_id": "beta"}', "{}"),
        (names.TRACE_METADATA, DEEP, None),
        (names.TRACE_TAGS, '["\\ud800 tenant:beta"]', "? tenant:beta"),
        (names.TRACE_TAGS, '[" tenant:beta"]', None),
        (names.TRACE_TAGS, DEEP, DEEP),
    ],
)
def test_b21_third_party_spans_cannot_name_another_tenant(key, value, left):
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans.add(name="chat")
    made.attributes.append(pair(key, value))
    redacted = PLAIN.encode(ThirdPartySpans("acme", request.SerializeToString(), 1)).message
    assert isinstance(redacted, ExportTraceServiceRequest)
    [span] = redacted.resource_spans[0].scope_spans[0].spans
    found = {attribute.key: attribute.value for attribute in span.attributes}
    assert found.pop(f"{names.TRACE_METADATA}.tenant_id").string_value == '"acme"'
    tags = [tag.string_value for tag in found.pop(names.TRACE_TAGS).array_value.values]
    assert tags.pop(0) == "tenant:acme"
    kept = [*tags, *(value.string_value for value in found.values())]
    assert kept == ([] if left is None else [left])


@pytest.mark.parametrize("added", [{"big": 2**70}, {7: "x"}, {"langfuse.\ud800": "x"}])
def test_attributes_that_cannot_be_encoded_are_dropped_and_not_the_span(added):
    assert b"activity:charge" in sent(PLAIN, span(), added=added)


def test_a_mask_that_looks_for_keys_reaches_json_in_third_party_spans():
    def by_key(*, data: Any) -> Any:
        return {k: "***" if k == "card" else v for k, v in data.items()} if is_map(data) else data

    def is_map(data: object) -> bool:
        return isinstance(data, dict)

    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans.add(name="chat")
    made.attributes.append(pair(names.INPUT, json.dumps({"card": "4111", "amount": 3})))
    item = ThirdPartySpans("acme", request.SerializeToString(), 1)
    left = encoder(by_key).encode(item).message.SerializeToString()
    assert b"4111" not in left
    assert b'{"card":"***","amount":3}' in left


@pytest.mark.parametrize(
    ("pattern", "is_hidden"),
    [("activity", True), ("activity:charge", True), ("activity:ch*", True), ("workflow", False)],
)
def test_arguments_and_results_can_be_withheld_by_kind_and_by_name(pattern, is_hidden):
    begun = span(input=capture([SECRET], max_bytes=100))
    outcome = Outcome(output=capture(SECRET, max_bytes=100))
    on = encoder(None, capture_except=(pattern,))
    assert leaks(sent(on, begun, outcome)) is not is_hidden


def test_a_value_on_which_the_mask_raises_is_hidden():
    content = sent(HIDING, span(input=capture([SECRET], max_bytes=100)))
    assert HIDDEN.encode() in content


def test_attribute_names_are_those_of_the_langfuse_sdk():
    ours = {name: getattr(names, name) for name in vars(names) if name.isupper()}
    known = {value for name, value in vars(Sdk).items() if name.isupper()}
    of_sdk = {
        value
        for name, value in ours.items()
        if isinstance(value, str)
        and name not in {"TRACER", "TRACE_ID_BAGGAGE", "OBSERVATION_PREFIX", "TRACE_PREFIX"}
    }
    assert of_sdk <= known
