"""The stand-in for Langfuse answers as the real one does."""

import base64
import gzip
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from langfuse.api.core.pydantic_utilities import parse_obj_as
from langfuse.api.observations.types import ObservationsV2Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from orkestra.errors import LangfuseUnavailableError
from orkestra.langfuse.api import present_observations
from orkestra.testing import Behaviour, LangfuseReceiver, ReceivedSpan, traces_of
from tests.support.waiting import PATIENTLY


@pytest.fixture
def receiver() -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver() as made:
        yield made


def body() -> bytes:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"t" * 16, b"s" * 8, "hello"
    span.start_time_unix_nano, span.end_time_unix_nano = 1_000, 3_000
    tags = span.attributes.add(key="langfuse.trace.tags").value.array_value
    tags.values.add(string_value="a")
    span.attributes.add(key="langfuse.observation.output").value.string_value = '{"x": 1}'
    span.attributes.add(key="langfuse.observation.metadata.k").value.string_value = '"v"'
    return request.SerializeToString()


def post(
    receiver: LangfuseReceiver,
    content: bytes | None,
    *,
    key: str = "pk-lf-test:sk-lf-test",
    kind: str = "application/x-protobuf",
    encoding: str | None = None,
    path: str = "/api/public/otel/v1/traces",
) -> tuple[int, bytes]:
    headers = {
        "Authorization": "Basic " + base64.b64encode(key.encode()).decode(),
        "Content-Type": kind,
        **({"Content-Encoding": encoding} if encoding else {}),
    }
    request = urllib.request.Request(receiver.url + path, data=content, headers=headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_spans_are_accepted_plain_and_compressed_and_answered_in_json(receiver):
    assert post(receiver, body()) == (200, b"{}")
    assert post(receiver, gzip.compress(body()), encoding="gzip") == (200, b"{}")
    assert post(receiver, b"") == (200, b"{}")
    first, second = receiver.spans
    assert first == second
    assert first.trace_id == (b"t" * 16).hex()
    assert first.tags == ("a",)
    assert first.output == {"x": 1}
    assert first.metadata == {"k": "v"}
    assert first.duration.total_seconds() == 2e-6
    assert receiver.bodies[0] == receiver.bodies[1]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("5e2492003526", "5e2492003526"),
        ("007", "007"),
        ("12", 12),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("[1]", [1]),
        ("NaN", "NaN"),
        ("plain", "plain"),
    ],
)
def test_text_that_looks_like_a_number_stays_text(sent, read):
    span = ReceivedSpan(
        trace_id="1" * 32,
        span_id="1" * 16,
        parent_id=None,
        name="span",
        start_ns=0,
        end_ns=1,
        attributes={"langfuse.observation.output": sent},
        status_code=0,
        status_text="",
        events=(),
    )
    assert span.output == read


@pytest.mark.parametrize(
    ("status", "wrong"),
    [
        (401, {"key": "pk-lf-test:other"}),
        (400, {"content": b"\xff\xffnot protobuf"}),
        (400, {"content": b"not gzip", "encoding": "gzip"}),
        (400, {"kind": "text/plain"}),
        (404, {"path": "/elsewhere"}),
    ],
)
def test_wrong_requests_get_the_status_of_langfuse(receiver, status, wrong):
    options = dict(wrong)
    assert post(receiver, options.pop("content", body()), **options)[0] == status
    assert receiver.spans == []


def test_reading_is_not_allowed(receiver):
    assert post(receiver, None)[0] == 405


def test_the_receiver_can_be_down_overloaded_and_back_on_the_same_port(receiver):
    url = receiver.url
    with receiver.behaving(Behaviour.UNAVAILABLE):
        assert post(receiver, body())[0] == 503
    with receiver.behaving(Behaviour.REFUSE), pytest.raises(urllib.error.URLError):
        post(receiver, body())
    assert receiver.url == url
    assert post(receiver, body())[0] == 200


def test_waiting_for_missing_spans_names_the_received_ones(receiver):
    post(receiver, body())
    assert len(receiver.wait_for(lambda spans: len(spans) == 1)) == 1
    with pytest.raises(TimeoutError, match="hello"):
        receiver.wait_for(lambda spans: len(spans) > 1, timeout=0.05)
    receiver.clear()
    assert receiver.spans == []


def span(name: str, parent: str | None, start: int) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id="t",
        span_id=name,
        parent_id=parent,
        name=name,
        start_ns=start,
        end_ns=start + 1,
        attributes={},
    )


def test_spans_become_trees_in_order_of_their_start():
    spans = [span("c", "a", 3), span("b", "a", 2), span("d", "b", 4), span("a", None, 1)]
    [root] = traces_of(spans)["t"]
    assert root.outline() == "a\n  b\n    d\n  c"
    assert [found.span.name for found in root.find("d")] == ["d"]


def test_a_span_whose_parent_is_missing_is_a_root_too():
    roots = traces_of([span("a", None, 1), span("b", "lost", 2)])["t"]
    assert [root.span.name for root in roots] == ["a", "b"]


def test_settings_send_to_the_receiver(receiver):
    settings = receiver.settings(environment="test")
    assert settings.is_on
    assert settings.base_url == receiver.url
    assert json.dumps(settings.environment) == '"test"'


def ask(receiver: LangfuseReceiver, **query: Any) -> tuple[int, Any]:
    credentials = base64.b64encode(b"pk-lf-test:sk-lf-test").decode()
    url = f"{receiver.url}/api/public/v2/observations?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {credentials}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_observations_have_the_form_that_langfuses_client_reads(receiver):
    post(receiver, body())
    status, answer = ask(receiver, traceId=(b"t" * 16).hex())
    assert status == 200
    [read] = parse_obj_as(ObservationsV2Response, answer).data
    assert (read.id, read.name, read.type) == ((b"s" * 8).hex(), "hello", "SPAN")
    assert ask(receiver, traceId="0" * 32) == (200, {"data": [], "meta": {}})


async def test_all_pages_are_asked_for_until_the_last(receiver):
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in range(1, 2502):
        spans.add(trace_id=b"t" * 16, span_id=number.to_bytes(8, "big"), name="n")
    post(receiver, request.SerializeToString())
    assert await present_observations(
        receiver.settings(), (b"t" * 16).hex(), timeout=PATIENTLY
    ) == {span.span_id for span in receiver.spans}
    assert len(ask(receiver, limit=1)[1]["data"]) == 1
    assert ask(receiver, limit=1001)[0] == 400
    assert ask(receiver, cursor="?")[0] == 400


async def test_a_langfuse_that_does_not_answer_differs_from_an_empty_one(receiver):
    trace_id = "0" * 32
    assert not await present_observations(receiver.settings(), trace_id, timeout=PATIENTLY)
    with pytest.raises(LangfuseUnavailableError, match=r"401 .*Invalid credentials"):
        await present_observations(
            receiver.settings(secret_key="wrong"), trace_id, timeout=PATIENTLY
        )
    with (
        receiver.behaving(Behaviour.UNAVAILABLE),
        pytest.raises(LangfuseUnavailableError, match="503"),
    ):
        await present_observations(receiver.settings(), trace_id, timeout=PATIENTLY)
    with (
        receiver.behaving(Behaviour.HANG),
        pytest.raises(LangfuseUnavailableError, match="ReadTimeout"),
    ):
        await present_observations(
            receiver.settings(), trace_id, timeout=timedelta(milliseconds=200)
        )
    with (
        receiver.behaving(Behaviour.REFUSE),
        pytest.raises(LangfuseUnavailableError, match="ConnectError"),
    ):
        await present_observations(receiver.settings(), trace_id, timeout=PATIENTLY)
