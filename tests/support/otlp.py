"""Spans made up for tests, as the bytes of an OTLP request."""

import base64
import gzip
import json
import urllib.error
import urllib.request
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

BEGINNING: Final = 1_790_000_000_000_000_000
MILLISECOND: Final = 1_000_000
TRACES_PATH: Final = "/api/public/otel/v1/traces"


class Spans:
    """Collects spans of one or several traces.

    Args:
        begin_ns: What the spans' times count from.
    """

    def __init__(self, begin_ns: int = BEGINNING) -> None:
        self.begin_ns = begin_ns
        self._request = ExportTraceServiceRequest()
        self._spans = self._request.resource_spans.add().scope_spans.add().spans

    def add(
        self,
        trace: int,
        span: int,
        name: str,
        *,
        parent: int | None = None,
        start: float = 0,
        end: float = 100,
        tenant: str | None = "acme",
        **observation: Any,
    ) -> "Spans":
        """Add a span.

        Args:
            trace: Number of the trace.
            span: Number of the span.
            name: Its name.
            parent: Number of its parent.
            start: When it begins, in milliseconds.
            end: When it ends.
            tenant: Whose it is.
            observation: Langfuse's attributes; `metadata_x` is the key `x` of the metadata.
        """
        made = self._spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=span.to_bytes(8, "big"),
            parent_span_id=b"" if parent is None else parent.to_bytes(8, "big"),
            name=name,
            start_time_unix_nano=self.begin_ns + int(start * MILLISECOND),
            end_time_unix_nano=self.begin_ns + int(end * MILLISECOND),
        )
        if tenant is not None:
            tags = made.attributes.add(key="langfuse.trace.tags").value.array_value
            tags.values.add(string_value=f"tenant:{tenant}")
        for key, value in observation.items():
            name = key.replace("metadata_", "metadata.").replace("model_name", "model.name")
            text = value if isinstance(value, str) else json.dumps(value)
            made.attributes.add(key=f"langfuse.observation.{name}").value.string_value = text
        return self

    def body(self) -> bytes:
        """The request, not compressed."""
        return self._request.SerializeToString()

    def send(self, url: str) -> None:
        """Send them all, compressed."""
        status, answer = post(url, gzip.compress(self.body(), 1), encoding="gzip")
        assert (status, answer) == (200, b"{}")


def post(
    url: str,
    content: bytes | None,
    *,
    keys: str = "pk-lf-local:sk-lf-local",
    kind: str = "application/x-protobuf",
    encoding: str | None = None,
    path: str = TRACES_PATH,
    **headers: str,
) -> tuple[int, bytes]:
    """Send a body, or ask where it is None; returns the status and the answer."""
    credentials = base64.b64encode(keys.encode()).decode()
    given = {"Authorization": f"Basic {credentials}", "Content-Type": kind, **headers}
    if encoding:
        given["Content-Encoding"] = encoding
    request = urllib.request.Request(url + path, data=content, headers=given)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
