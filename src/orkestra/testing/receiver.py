"""Stand-in for Langfuse on the loopback interface.

It accepts the real protocol, OTLP over HTTP with protobuf and gzip, and answers as a real Langfuse
does, also to malformed requests and to queries for a trace's observations. It can be down,
overloaded or frozen.
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
_SHUTDOWN_POLL_SECONDS: Final = 0.01


class Behaviour(StrEnum):
    """Behaviour of the receiver towards requests."""

    ACCEPT = "accept"
    """Answer as a healthy Langfuse."""
    REFUSE = "refuse"
    """Refuse connections, as if nothing listened."""
    UNAVAILABLE = "unavailable"
    """Answer every request with 503."""
    HANG = "hang"
    """Accept connections and never answer."""


class LangfuseReceiver:
    """Receives spans as Langfuse does, and keeps them in memory.

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
        """Choose keys; `start()` or `with` starts to listen.

        Args:
            public_key: Public key that is accepted.
            secret_key: Secret key that is accepted.
            port: Port on 127.0.0.1; 0 chooses a free one.
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
        """Start listening."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self.close()

    @property
    def url(self) -> str:
        """Base URL, for `langfuse.base_url`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Spans received so far, in order of arrival."""
        with self._changed:
            return list(self._spans)

    @property
    def bodies(self) -> list[bytes]:
        """Decompressed bodies of all accepted requests, to search for what must not be sent."""
        with self._changed:
            return list(self._bodies)

    def settings(self, **others: Any) -> LangfuseSettings:
        """Make settings that send to this receiver.

        Args:
            others: More settings.
        """
        keys = {"public_key": self.public_key, "secret_key": self.secret_key}
        return LangfuseSettings.model_validate({**keys, "base_url": self.url, **others})

    def traces(self) -> dict[str, list[TraceTree]]:
        """Return the received spans as trees by trace ID; a complete trace has one root."""
        return traces_of(self.spans)

    def clear(self) -> None:
        """Forget all received spans."""
        with self._changed:
            self._spans.clear()
            self._bodies.clear()

    def wait_for(
        self, predicate: Callable[[list[ReceivedSpan]], object], timeout: float = 10.0
    ) -> list[ReceivedSpan]:
        """Block until enough spans have arrived; call it in a thread if an event loop runs.

        Args:
            predicate: Called with all spans; true if they suffice.
            timeout: Seconds to wait.

        Returns:
            All spans.

        Raises:
            TimeoutError: They did not arrive; the message names those that did.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self._spans), timeout):
                names = [span.name for span in self._spans]
                msg = f"after {timeout} s the spans are {names}"
                raise TimeoutError(msg)
            return list(self._spans)

    @contextmanager
    def behaving(self, behaviour: Behaviour) -> Generator[None]:
        """Behave differently inside the block; hanging connections are closed at its end."""
        previous = self._behaviour
        self._behave(behaviour)
        try:
            yield
        finally:
            self._behave(previous)

    def start(self) -> None:
        """Start listening; again on the same port if it listened before."""
        # After the first start the port is fixed, so that senders find the receiver again.
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_SHUTDOWN_POLL_SECONDS,),
            name="langfuse-receiver",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and close all connections; may be called again."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            with self._changed:
                self._changed.notify_all()
            # Hanging handlers are woken first, as their threads would keep connections open.
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

    def respond(
        self, method: str, target: str, headers: Message, body: bytes
    ) -> tuple[HTTPStatus, object] | None:
        """Answer a request as Langfuse does.

        Args:
            method: `GET` or `POST`.
            target: Path and query string.
            headers: Headers of the request.
            body: Body of the request.

        Returns:
            The status and the content for JSON; None if the request is never answered.
        """
        # Before the path and the keys are looked at: a frozen server looks at nothing.
        if self._behaviour is Behaviour.HANG:
            self._hang()
            return None
        path, _, query = target.partition("?")
        known = (TRACES_PATH,) if method == "POST" else (_PROJECTS_PATH, OBSERVATIONS_PATH)
        if path not in known:
            is_trace = path == TRACES_PATH
            # T60: as a real Langfuse answers.
            return HTTPStatus.METHOD_NOT_ALLOWED if is_trace else HTTPStatus.NOT_FOUND, {}
        if (refusal := self._refusal(headers)) is not None:
            return refusal
        if path == _PROJECTS_PATH:
            return HTTPStatus.OK, {"data": [{"id": "project", "name": _PROJECT}]}
        if path == OBSERVATIONS_PATH:
            return observations_page(self.spans, query)
        try:
            self._store(headers, body)
        except InvalidSpansError as error:
            return HTTPStatus.BAD_REQUEST, {"message": str(error)}
        return HTTPStatus.OK, {}

    def _refusal(self, headers: Message) -> tuple[HTTPStatus, object] | None:
        if self._behaviour is Behaviour.UNAVAILABLE:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"message": "Service Unavailable"}
        if not is_authorized(
            headers.get("Authorization"), public_key=self.public_key, secret_key=self.secret_key
        ):
            return HTTPStatus.UNAUTHORIZED, {"message": "Invalid credentials"}
        return None

    def _store(self, headers: Message, body: bytes) -> None:
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
    # A client that keeps its connection open must not keep a test from ending.
    daemon_threads = True

    def __init__(self, receiver: LangfuseReceiver, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.receiver = receiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect: some tests are about them."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._respond(b"")

    def do_POST(self) -> None:
        self._respond(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: object) -> None:
        """Write no access log."""

    def _respond(self, body: bytes) -> None:
        # The body has been read, also if it is refused: clients take an early answer for a reset.
        receiver = cast("_Server", self.server).receiver
        answer = receiver.respond(self.command, self.path, self.headers, body)
        if answer is None:
            return
        status, content = answer
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)
