"""A stand-in for Langfuse on the loopback interface.

It speaks the real wire protocol, OTLP over HTTP with protobuf and gzip, and answers as a real
Langfuse does, wrong requests and questions for a trace's observations included. It can also be
down, busy or frozen.
"""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from email.message import Message
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self, cast

from orkestra.config import LangfuseSettings
from orkestra.otlp import (
    OBSERVATIONS_PATH,
    TRACES_PATH,
    InvalidSpansError,
    ReceivedSpan,
    TraceTree,
    decode_request,
    is_authorized,
    observations_page,
    traces_of,
)

_PROJECTS_PATH: Final = "/api/public/projects"
_PROJECT: Final = "received"
_STEP: Final = 0.01


class Behaviour(StrEnum):
    """How the receiver treats requests."""

    ACCEPT = "accept"
    """As a healthy Langfuse."""
    REFUSE = "refuse"
    """Connections are refused, as if nothing listened."""
    UNAVAILABLE = "unavailable"
    """Every request is answered by 503."""
    HANG = "hang"
    """Connections are accepted and never answered."""


class LangfuseReceiver:
    """Receives spans as Langfuse would and keeps them in memory.

    Example:
        ```python
        with LangfuseReceiver() as receiver:
            config = OrkestraConfig(langfuse=receiver.settings())
            ...
            [root] = receiver.traces()[trace_id]
            print(root.outline())
        ```
    """

    def __init__(
        self,
        *,
        public_key: str = "pk-lf-test",
        secret_key: str = "sk-lf-test",  # noqa: S107 - it opens nothing
        port: int = 0,
    ) -> None:
        """Choose keys; nothing listens yet.

        Args:
            public_key: The key it knows.
            secret_key: The secret of the key.
            port: Where to listen on 127.0.0.1; 0 takes a free port.
        """
        self.public_key = public_key
        self.secret_key = secret_key
        self._port = port
        self._behaviour = Behaviour.ACCEPT
        self._spans: list[ReceivedSpan] = []
        self._bodies: list[bytes] = []
        self._changed = threading.Condition()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start to listen."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to listen."""
        self.close()

    @property
    def url(self) -> str:
        """Base URL, for `langfuse.base_url`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans received so far, in the order in which they came."""
        with self._changed:
            return list(self._spans)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all accepted requests, decompressed: whatever left is in there."""
        with self._changed:
            return list(self._bodies)

    def settings(self, **others: Any) -> LangfuseSettings:
        """Settings that send here.

        Args:
            others: More settings.
        """
        keys = {"public_key": self.public_key, "secret_key": self.secret_key}
        return LangfuseSettings.model_validate({**keys, "base_url": self.url, **others})

    def traces(self) -> dict[str, list[TraceTree]]:
        """What was received, as trees by trace id; a complete trace has one root."""
        return traces_of(self.spans)

    def clear(self) -> None:
        """Forget what was received."""
        with self._changed:
            self._spans.clear()
            self._bodies.clear()

    def wait_for(
        self, predicate: Callable[[list[ReceivedSpan]], object], timeout: float = 10.0
    ) -> list[ReceivedSpan]:
        """Wait for spans; blocks, so call it from a thread where a loop runs.

        Args:
            predicate: Given all spans, says whether they suffice.
            timeout: How many seconds to wait.

        Returns:
            All spans.

        Raises:
            TimeoutError: They did not come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self._spans), timeout):
                names = [span.name for span in self._spans]
                msg = f"after {timeout} s the spans are {names}"
                raise TimeoutError(msg)
            return list(self._spans)

    @contextmanager
    def behaving(self, behaviour: Behaviour) -> Generator[None]:
        """Treat requests otherwise for a while; frozen connections are cut at the end."""
        previous = self._behaviour
        self._behave(behaviour)
        try:
            yield
        finally:
            self._behave(previous)

    def start(self) -> None:
        """Listen on the port; on the same as before where it listened before."""
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STEP,), name="langfuse-receiver", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop to listen and cut what is connected; may be called again."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            with self._changed:
                self._changed.notify_all()
            server.shutdown()
            server.server_close()
            thread.join()

    def _behave(self, behaviour: Behaviour) -> None:
        with self._changed:
            self._behaviour = behaviour
            self._changed.notify_all()
        if behaviour is Behaviour.REFUSE:
            self.close()
        elif self._server is None:
            self.start()

    def answer(self, headers: Message, body: bytes) -> tuple[HTTPStatus, object] | None:
        """What a Langfuse answers to spans, or None where it never does.

        Args:
            headers: Headers of the request.
            body: Its body.

        Returns:
            The status and what the body says as JSON.
        """
        if self._behaviour is Behaviour.HANG:
            self._hang()
            return None
        if (refusal := self._refusal(headers)) is not None:
            return refusal
        try:
            self._take(headers, body)
        except InvalidSpansError as error:
            return HTTPStatus.BAD_REQUEST, {"message": str(error)}
        return HTTPStatus.OK, {}

    def answer_question(
        self, headers: Message, path: str, query: str
    ) -> tuple[HTTPStatus, object] | None:
        """What a Langfuse answers to `GET`, or None where it never does.

        Args:
            headers: Headers of the request.
            path: Its path.
            query: Its query string.

        Returns:
            The status and what the body says as JSON.
        """
        if self._behaviour is Behaviour.HANG:
            self._hang()
            return None
        if path == TRACES_PATH:
            return HTTPStatus.METHOD_NOT_ALLOWED, {}
        if path not in (_PROJECTS_PATH, OBSERVATIONS_PATH):
            return HTTPStatus.NOT_FOUND, {}
        if (refusal := self._refusal(headers)) is not None:
            return refusal
        if path == _PROJECTS_PATH:
            return HTTPStatus.OK, {"data": [{"id": "project", "name": _PROJECT}]}
        return observations_page(self.spans, query)

    def _refusal(self, headers: Message) -> tuple[HTTPStatus, object] | None:
        if self._behaviour is Behaviour.UNAVAILABLE:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"message": "Service Unavailable"}
        if not is_authorized(
            headers.get("Authorization"), public_key=self.public_key, secret_key=self.secret_key
        ):
            return HTTPStatus.UNAUTHORIZED, {"message": "Invalid credentials"}
        return None

    def _take(self, headers: Message, body: bytes) -> None:
        plain, spans = decode_request(
            body,
            content_type=headers.get_content_type(),
            encoding=headers.get("Content-Encoding"),
        )
        with self._changed:
            self._spans.extend(spans)
            self._bodies.append(plain)
            self._changed.notify_all()

    def _hang(self) -> None:
        server = self._server
        with self._changed:
            self._changed.wait_for(
                lambda: self._behaviour is not Behaviour.HANG or self._server is not server
            )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: LangfuseReceiver, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.receiver = receiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        receiver = cast("_Server", self.server).receiver
        answer = receiver.answer_question(self.headers, path, query)
        if answer is not None:
            self._answer(*answer)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != TRACES_PATH:
            self._answer(HTTPStatus.NOT_FOUND, {})
            return
        answer = cast("_Server", self.server).receiver.answer(self.headers, body)
        if answer is not None:
            self._answer(*answer)

    def log_message(self, format: str, *args: object) -> None:
        """Tests read assertions, not access logs."""

    def _answer(self, status: HTTPStatus, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
