"""The local trace page takes what Langfuse takes, keeps it, and answers only this machine."""

import gzip
import http.client
import json
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langfuse.api.core.pydantic_utilities import parse_obj_as
from langfuse.api.observations.types import ObservationsV2Response

from orkestra.dev.tracepage import Retention, TracePage
from orkestra.errors import ConfigurationError
from orkestra.langfuse.api import present_observations
from orkestra.otlp import InvalidSpansError, decode_request
from tests.support.otlp import BEGINNING, Spans, post
from tests.support.waiting import PATIENTLY


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TracePage]:
    with TracePage(tmp_path / "traces.db") as made:
        yield made


def ask(page: TracePage, path: str, **query: str) -> Any:
    status, answer = post(page.url, None, path=f"{path}?{urllib.parse.urlencode(query)}")
    assert status == 200, answer
    return json.loads(answer)


def listed(page: TracePage, **query: str) -> list[int]:
    """The numbers of the traces, as they are listed."""
    return [int(each["id"], 16) for each in ask(page, "/api/traces", **query)["traces"]]


def trace_path(number: int) -> str:
    return f"/api/traces/{number.to_bytes(16, 'big').hex()}"


def body() -> bytes:
    return Spans().add(1, 1, "workflow:W").body()


def test_spans_are_accepted_plain_and_compressed_and_answered_in_json(page: TracePage) -> None:
    assert post(page.url, body()) == (200, b"{}")
    assert post(page.url, gzip.compress(body()), encoding="gzip") == (200, b"{}")
    assert post(page.url, b"") == (200, b"{}")
    assert listed(page) == [1]


@pytest.mark.parametrize(
    ("status", "wrong"),
    [
        (401, {"keys": "pk-lf-local:other"}),
        (
            401,
            {"keys": "pk-lf-local:other", "content": None, "path": "/api/public/v2/observations"},
        ),
        (400, {"content": b"\xff\xffnot protobuf"}),
        (400, {"content": b"not gzip", "encoding": "gzip"}),
        (400, {"content": gzip.compress(body())[:-9], "encoding": "gzip"}),
        (400, {"content": b'{"resourceSpans": []}', "kind": "application/json"}),
        (400, {"kind": "text/plain"}),
        (405, {"content": None}),
        (404, {"path": "/api/public/ingestion"}),
    ],
)
def test_wrong_requests_get_the_status_of_langfuse(
    page: TracePage, status: int, wrong: dict[str, Any]
) -> None:
    options = dict(wrong)
    assert post(page.url, options.pop("content", body()), **options)[0] == status
    assert listed(page) == []


def test_what_is_too_large_is_refused_before_it_fills_the_memory(page: TracePage) -> None:
    bomb = gzip.compress(b"\0" * 100_000)
    with pytest.raises(InvalidSpansError):
        decode_request(
            bomb, content_type="application/x-protobuf", encoding="gzip", max_bytes=99_999
        )
    assert post(page.url, b"", **{"Content-Length": str((64 << 20) + 1)})[0] == 413


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "localhost", ""])
def test_a_name_that_was_bound_to_this_machine_by_others_is_refused(
    page: TracePage, host: str
) -> None:
    for path, content in (
        ("/", None),
        ("/api/traces", None),
        ("/api/public/otel/v1/traces", body()),
    ):
        assert post(page.url, content, path=path, Host=host)[0] == 421
    port = page.url.rpartition(":")[2]
    assert post(page.url, None, path="/", Host=f"localhost:{port}")[0] == 200


def test_every_answer_forbids_foreign_scripts_and_frames(page: TracePage) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/traces", "/nowhere"):
        connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Access-Control-Allow-Origin"] is None
        text = response.read().decode()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        connection.close()


def test_a_trace_is_told_as_a_whole_and_each_span_with_its_contents(page: TracePage) -> None:
    (
        Spans()
        .add(1, 1, "workflow:Order", end=2000, type="chain", input={"id": 7}, output="shipped")
        .add(1, 2, "activity:charge", parent=1, type="tool", level="ERROR", status_message="no")
        .add(1, 3, "activity:charge", parent=1, start=200, type="tool", metadata_attempt=2)
        .add(
            1,
            4,
            "draft",
            parent=3,
            type="generation",
            model_name="m-1",
            usage_details={"input": 10, "input_cached": 5, "output": 3, "total": 18},
            cost_details={"total": 0.25},
        )
        .send(page.url)
    )
    [trace] = ask(page, "/api/traces")["traces"]
    told = {key: trace[key] for key in ("name", "tenant", "spans", "errors", "has_root", "level")}
    assert told == {
        "name": "workflow:Order",
        "tenant": "acme",
        "spans": 4,
        "errors": 1,
        "has_root": 1,
        "level": "DEFAULT",
    }
    assert (trace["tokens_in"], trace["tokens_out"], trace["cost"]) == (15, 3, 0.25)
    assert trace["end"] - trace["start"] == 2000
    found = ask(page, trace_path(1))
    assert found["trace"] == trace
    assert [span["attempt"] for span in found["spans"]] == [None, None, None, 2]
    root, *_ = found["spans"]
    whole = ask(page, f"{trace_path(1)}/spans/{root['span_id']}")
    assert json.loads(whole["input"]) == {"id": 7}
    assert whole["output"] == "shipped"
    assert post(page.url, None, path=trace_path(2))[0] == 404
    assert post(page.url, None, path=f"{trace_path(1)}/spans/{'0' * 16}")[0] == 404


def test_a_workflow_that_still_runs_is_named_after_what_its_activities_say(page: TracePage) -> None:
    first = Spans().add(1, 2, "activity:a", parent=1, type="tool", metadata_workflow_type="Order")
    first.send(page.url)
    [trace] = ask(page, "/api/traces")["traces"]
    assert (trace["name"], trace["has_root"]) == ("workflow:Order", 0)
    Spans().add(1, 1, "workflow:Order", type="chain").send(page.url)
    [trace] = ask(page, "/api/traces")["traces"]
    assert (trace["name"], trace["has_root"], trace["spans"]) == ("workflow:Order", 1, 2)


def test_a_list_is_of_one_tenant_of_errors_and_of_what_is_searched(page: TracePage) -> None:
    (
        Spans()
        .add(1, 1, "workflow:Order", start=1, tenant="acme", input={"customer": "Zoë 100%"})
        .add(2, 2, "workflow:Order", start=2, tenant="beta", output={"customer": "Zoë 1000"})
        .add(3, 3, "workflow:Refund", start=3, tenant="beta", level="ERROR", status_message="Lost")
        .add(4, 4, "workflow:Refund", start=4, tenant=None)
        .send(page.url)
    )
    assert listed(page) == [4, 3, 2, 1]
    assert listed(page, tenant="beta") == [3, 2]
    assert listed(page, errors="1") == [3]
    assert listed(page, search="refund") == [4, 3]
    assert listed(page, search="lost") == [3]
    assert listed(page, search="Zoë order") == [2, 1]
    assert listed(page, search="100%") == [1]
    assert listed(page, search="_") == []
    assert listed(page, search="' OR 1=1 --") == []
    assert listed(page, limit="2") == [4, 3]
    assert ask(page, "/api/traces", limit="2")["more"] is True
    tenants = ask(page, "/api/traces", search="lost")["tenants"]
    assert tenants == [{"id": "acme", "traces": 1}, {"id": "beta", "traces": 2}]


def test_the_same_span_sent_again_is_one_and_at_another_time_two_as_in_langfuse(
    page: TracePage,
) -> None:
    for _ in range(2):
        Spans().add(1, 1, "workflow:W").send(page.url)
    assert ask(page, trace_path(1))["trace"]["spans"] == 1
    Spans().add(1, 1, "workflow:W", start=5).send(page.url)
    assert ask(page, trace_path(1))["trace"]["spans"] == 2


async def test_observations_are_told_as_langfuse_tells_them(page: TracePage) -> None:
    Spans().add(1, 1, "workflow:W").add(1, 2, "activity:a", parent=1).add(2, 3, "b").send(page.url)
    trace_id = (1).to_bytes(16, "big").hex()
    answer = ask(page, "/api/public/v2/observations", traceId=trace_id)
    read = parse_obj_as(ObservationsV2Response, answer).data
    assert [each.name for each in read] == ["workflow:W", "activity:a"]
    present = await present_observations(page.settings(), trace_id, timeout=PATIENTLY)
    assert present == {number.to_bytes(8, "big").hex() for number in (1, 2)}
    [root] = page.trace(trace_id)
    assert root.outline() == "workflow:W\n  activity:a"
    assert ask(page, "/api/public/projects")["data"][0]["name"] == "local"


def test_strange_values_are_kept_without_breaking_the_page(page: TracePage) -> None:
    made = Spans()
    made.add(
        1, 1, "\0\u202e\x1b[31m", usage_details="not json", cost_details=[1], metadata_attempt="x"
    )
    odd = made._spans[0]
    odd.attributes.add(key="nan").value.double_value = float("nan")
    odd.attributes.add(key="bytes").value.bytes_value = b"\xff\x00"
    odd.attributes.add(key="huge").value.int_value = -(2**63)
    odd.attributes.add(key="gen_ai.usage.input_tokens").value.double_value = float("inf")
    odd.end_time_unix_nano = 2**64 - 1
    odd.attributes.add(key="langfuse.observation.input").value.string_value = '"\\ud800"'
    made.add(1, 2, "itself", parent=2).add(1, 3, "a", parent=4).add(1, 4, "b", parent=3)
    made.send(page.url)
    found = ask(page, trace_path(1))
    assert found["trace"]["spans"] == 4
    whole = ask(page, f"{trace_path(1)}/spans/{odd.span_id.hex()}")
    assert whole["attributes"]["nan"] == "nan"
    assert whole["attributes"]["bytes"] == "ff00"
    assert whole["input"] == '"\\ud800"'
    assert whole["name"] == "\0\u202e\x1b[31m"


def test_only_so_much_is_kept_and_the_traces_that_were_silent_longest_go_first(
    tmp_path: Path,
) -> None:
    with TracePage(tmp_path / "t.db", retention=Retention(max_spans=50)) as page:
        for number in range(1, 11):
            made = Spans()
            for span in range(10):
                made.add(number, number * 100 + span, "s", start=-number)
            made.send(page.url)
        Spans().add(6, 1, "again").send(page.url)
        kept = listed(page)
    assert kept[-1] == 10 or 10 in kept
    assert 6 in kept
    assert not {1, 2, 3, 4} & set(kept)
    with sqlite3.connect(tmp_path / "t.db") as database:
        assert database.execute("SELECT count(*) FROM spans").fetchone()[0] <= 50
    database.close()


def test_traces_are_there_again_after_a_restart_and_a_foreign_file_is_refused(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        with TracePage(tmp_path / "traces.db") as page:
            Spans().add(1, 1, "w").send(page.url)
            assert listed(page) == [1]
    foreign = tmp_path / "foreign.db"
    foreign.write_text("this is no database, but it is long enough to look like one " * 20)
    with pytest.raises(ConfigurationError, match=r"foreign\.db.*delete it"):
        TracePage(foreign).start()
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(ConfigurationError, match="another version"):
        TracePage(tmp_path / "other.db").start()


def test_none_of_thousands_of_spans_from_many_senders_is_lost(page: TracePage) -> None:
    batches = [Spans(BEGINNING + number) for number in range(24)]
    for number, batch in enumerate(batches):
        for span in range(500):
            batch.add(number * 50 + span // 10 + 1, number * 500 + span + 1, f"activity:{span}")
    senders = [
        threading.Thread(
            target=lambda part: [b.send(page.url) for b in part], args=(batches[n::6],)
        )
        for n in range(6)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    traces = ask(page, "/api/traces", limit="1000")
    assert traces["more"] is True
    assert sum(each["traces"] for each in traces["tenants"]) == 24 * 50
    assert {each["spans"] for each in traces["traces"]} == {10}


def test_whoever_listens_is_told_which_traces_have_changed(page: TracePage) -> None:
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/api/changes")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    Spans().add(1, 1, "w").add(2, 2, "w").send(page.url)
    while not (line := response.readline()).startswith(b"data: "):
        assert line
    changed = json.loads(line.removeprefix(b"data: "))
    assert [int(each, 16) for each in changed] == [1, 2]
    page.close()
    response.read()
    connection.close()
