"""The trace header, and the attributes that callers may set."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from orkestra.errors import InvalidTraceAttributeError
from orkestra.temporal.tracing import TRACE_HEADER
from orkestra.temporal.tracing.headers import read_header, with_tenant_prefix, write_header
from orkestra.tracing import (
    TraceAttributes,
    TraceContext,
    current_trace_attributes,
    fitting,
    trace_attributes,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
FREE_TAGS = TEXTS.filter(lambda tag: not tag.strip().lower().startswith("tenant:"))
VALUES = TEXTS | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(-1e9, 1e9)
CONTEXTS = st.builds(
    lambda trace, span, attributes: TraceContext(
        trace_id=trace and trace.hex(), span_id=trace and span and span.hex(), attributes=attributes
    ),
    st.none() | st.binary(min_size=16, max_size=16).filter(any),
    st.none() | st.binary(min_size=8, max_size=8).filter(any),
    st.builds(
        TraceAttributes,
        user_id=st.none() | TEXTS,
        session_id=st.none() | TEXTS,
        tags=st.lists(FREE_TAGS, max_size=4).map(tuple),
        metadata=st.dictionaries(TEXTS.map("k-".__add__), VALUES, max_size=4),
    ),
)


@given(CONTEXTS)
def test_a_context_survives_encoding_and_decoding(context):
    assert TraceContext.decode(context.encode()) == context


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_decoding_any_bytes_raises_nothing(data):
    read = read_header({TRACE_HEADER: Payload(data=data)})
    assert isinstance(read, TraceContext)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_decoding_any_json_raises_nothing(value):
    for content in (value, ["", "", value], ["", "", {"u": value, "g": value, "m": value}]):
        decoded = TraceContext.decode(json.dumps(content).encode())
        assert decoded is None or TraceContext.decode(decoded.encode()) == decoded


def test_a_forged_header_cannot_set_reserved_attributes():
    forged = {"tenant_id": "beta", " Tenant_ID": "beta", "plan": "gold"}
    content = ["", "", {"g": ["tenant:beta", "\tTENANT:beta", "vip"], "m": forged}]
    decoded = TraceContext.decode(json.dumps(content).encode())
    assert decoded is not None
    assert decoded.attributes == TraceAttributes(tags=("vip",), metadata={"plan": "gold"})


def test_ids_alone_are_compact_and_other_headers_are_kept():
    context = TraceContext(trace_id="0" * 31 + "1", span_id="0" * 15 + "2")
    headers = write_header({"other": Payload(data=b"x")}, context)
    assert set(headers) == {"other", TRACE_HEADER}
    assert len(headers[TRACE_HEADER].data) == 40
    assert set(write_header(headers, None)) == {"other"}


@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_ids_arrive_however_large_the_attributes_are(ascii_only):
    """A caller without Orkestra may fill its header to the brim, and what follows adds to it."""
    many = TraceAttributes(
        user_id="ada", tags=tuple(f"{number:\u00fc>200}" for number in range(80))
    )
    context = TraceContext(trace_id="0" * 31 + "1", span_id="0" * 15 + "2", attributes=many)
    for start_ns in (None, 7):
        told = replace(context, start_ns=start_ns)
        decoded = TraceContext.decode(told.encode(ascii_only=ascii_only))
        assert decoded == replace(told, attributes=TraceAttributes())


def test_b21_a_workflow_id_that_names_another_tenant_is_no_session_of_theirs():
    unsaid = with_tenant_prefix(TraceAttributes(), tenant="acme", workflow_id="beta:order-42")
    own = with_tenant_prefix(TraceAttributes(), tenant="acme", workflow_id="acme:order-42")
    assert (unsaid.session_id, own.session_id) == ("acme:beta:order-42", "acme:order-42")


def test_scopes_nest_and_end():
    with trace_attributes(user_id="ada", tags=["a"], metadata={"x": 1}):
        with trace_attributes(
            session_id="s", tags=["b", "a"], metadata={"x": 2, "y": True}
        ) as both:
            assert current_trace_attributes() == both
            assert both == TraceAttributes(
                user_id="ada", session_id="s", tags=("a", "b"), metadata={"x": 2, "y": True}
            )
        assert current_trace_attributes().session_id is None
    assert not current_trace_attributes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": ""},
        {"user_id": "x" * 201},
        {"user_id": "\ud800"},
        {"session_id": 7},
        {"tags": "one"},
        {"tags": ["tenant:beta"]},
        {"tags": ["Tenant:beta"]},
        {"tags": [" tenant:beta"]},
        {"tags": [""]},
        {"tags": [f"{number:0200}" for number in range(42)]},
        {"metadata": {"tenant_id": "beta"}},
        {"metadata": {"Workflow_Id": "x"}},
        {"metadata": {"tenant_id ": "beta"}},
        {"metadata": {"x": ["list"]}},
        {"metadata": {"x": float("nan")}},
        {"metadata": {"x": "y" * 199}},
        {"metadata": {"x": "\ud800"}},
        {"metadata": {"": "y"}},
    ],
)
def test_attributes_that_langfuse_would_drop_or_that_are_reserved_are_rejected(wrong):
    with pytest.raises(InvalidTraceAttributeError), trace_attributes(**wrong):
        pytest.fail("the scope was entered")
    assert not current_trace_attributes()


@given(st.text(max_size=300))
def test_fitting_values_stay_and_others_remain_distinct(value):
    fitted = fitting(value)
    assert len(fitted) <= 200
    assert (fitted == value) == (len(value) <= 200)
    assert fitting(value + "x" * 200) != fitting(value + "y" * 200)
