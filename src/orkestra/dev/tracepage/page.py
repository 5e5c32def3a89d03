"""`TracePage`: the HTTP server of the trace page, in a thread of its own.

It implements the part of Langfuse's API that applications use, so that they send their spans here
instead. `HostCheck` is what keeps pages of other sites out: the server listens on 127.0.0.1, but a
browser on this machine would ask it on behalf of any site.
"""

import asyncio
import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

from orkestra.errors import MissingExtraError

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError("The local trace page", "dev") from error

from orkestra.config import LangfuseSettings
from orkestra.dev.tracepage.store import (
    Retention,
    TraceStore,
    list_traces,
    read_span,
    read_trace,
    received_spans,
)
from orkestra.otlp import (
    OBSERVATIONS_PATH,
    TRACES_PATH,
    InvalidSpansError,
    TraceTree,
    decode_request,
    is_authorized,
    observations_page,
    traces_of,
)

_HOST: Final = "127.0.0.1"
_SHUTDOWN_SECONDS: Final = 2


class TracePage:
    """Local server that receives spans as Langfuse does, stores them in a file and shows them.

    It accepts connections from this machine only, and everybody on this machine can read it. Use it
    for development, and Langfuse in production.

    Example:
        ```python
        with TracePage(Path("traces.db")) as page:
            config = OrkestraConfig(langfuse=page.settings())
            print(f"traces: {page.url}")
            ...
        ```
    """

    def __init__(
        self,
        database: Path,
        *,
        port: int = 0,
        public_key: str = "pk-lf-local",
        secret_key: str = "sk-lf-local",  # noqa: S107 - a well-known default
        retention: Retention | None = None,
    ) -> None:
        """Configure the page; `start()` makes it listen.

        Args:
            database: File of the spans, created if missing; its directory must exist.
            port: Port on 127.0.0.1; 0 uses a free port.
            public_key: Public key of the applications.
            secret_key: Secret key of the applications.
            retention: Limits of what is kept.
        """
        self._database = database
        self._port = port
        self._keys = {"public_key": public_key, "secret_key": secret_key}
        self._retention = retention
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        """Start listening."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.close()

    @property
    def url(self) -> str:
        """URL of the page, and value for `langfuse.base_url`."""
        return f"http://{_HOST}:{self._port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables that make an application send its traces here."""
        return {
            "LANGFUSE_BASE_URL": self.url,
            "LANGFUSE_PUBLIC_KEY": self._keys["public_key"],
            "LANGFUSE_SECRET_KEY": self._keys["secret_key"],
        }

    def settings(self, **others: Any) -> LangfuseSettings:
        """Make settings that send traces here, with any others."""
        return LangfuseSettings.model_validate({**self._keys, "base_url": self.url, **others})

    def trace(self, trace_id: str) -> Sequence[TraceTree]:
        """Return the received spans of a trace as trees; a complete trace has one root."""
        return traces_of(received_spans(self._database, trace_id)).get(trace_id, [])

    def start(self) -> None:
        """Open the database and start listening.

        Raises:
            ConfigurationError: The file is not a database of traces.
            OSError: The port cannot be used.
        """
        # Bound before the thread starts, so that a port in use raises here and port 0 is known.
        listener = socket.create_server((_HOST, self._port))
        self._port = listener.getsockname()[1]
        try:
            self._running = _Running(self._database, listener, self._keys, self._retention)
        except BaseException:
            listener.close()
            raise

    def close(self) -> None:
        """Stop listening, store the received spans and close the database; repeatable."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


class _Running:
    """Server, thread and store of a page that listens."""

    def __init__(
        self,
        database: Path,
        listener: socket.socket,
        keys: Mapping[str, str],
        retention: Retention | None,
    ) -> None:
        self._changes = ChangeStream()
        self._store = TraceStore(database, retention=retention, on_change=self._publish)
        self._loop = asyncio.new_event_loop()
        port = listener.getsockname()[1]
        routes = [
            *LangfuseApi(self._store, **keys).routes,
            *PageRoutes(database, self._changes).routes,
        ]
        hosts = [f"{name}:{port}" for name in (_HOST, "localhost")]
        config = uvicorn.Config(
            HostCheck(Starlette(routes=routes), hosts=hosts),
            access_log=False,
            # The store opens before and closes after the server, in the thread of `start()`.
            lifespan="off",
            # uvicorn would replace the handlers of the program that the page runs in.
            log_config=None,
            loop="asyncio",
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="orkestra-trace-page", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        self._server.should_exit = True
        # After `should_exit`: open event streams would hold up the shutdown of the server.
        self._call(self._changes.close)
        self._thread.join()
        # Last: requests that still run wait for their spans to be stored.
        self._store.close()

    def _run(self, listener: socket.socket) -> None:
        # Made beforehand: `end()` may be called before this thread has run.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[listener]))

    def _publish(self, trace_ids: Sequence[str]) -> None:
        self._call(self._changes.publish, trace_ids)

    def _call(self, *call: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(*call)


# The page needs only its own files, so that nothing in a hostile trace can run.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class HostCheck:
    """Middleware that refuses other hosts and adds the security headers (DNS rebinding).

    A page of another site can have its name resolved to 127.0.0.1 to reach this server. The browser
    still sends that name as the host.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        app = self._app
        if Headers(scope=scope).get("host", "").lower() not in self._hosts:
            # 421 Misdirected Request; the security headers go with this answer, too.
            app = JSONResponse({"message": "Unknown host"}, status_code=421)
        await app(scope, receive, send_with_headers)


_LARGEST_BODY: Final = 64 * 1024 * 1024
_PROJECT: Final = {"data": [{"id": "local", "name": "local"}]}


class LangfuseApi:
    """The part of Langfuse's API that applications use, for one project."""

    def __init__(self, store: TraceStore, *, public_key: str, secret_key: str) -> None:
        self._store = store
        self._keys = {"public_key": public_key, "secret_key": secret_key}

    @property
    def routes(self) -> list[Route]:
        """Routes of the API."""
        return [
            Route(TRACES_PATH, self._receive, methods=["POST"]),
            Route(OBSERVATIONS_PATH, self._observations, methods=["GET"]),
            Route("/api/public/projects", self._projects, methods=["GET"]),
        ]

    async def _receive(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await _body(request)
        if body is None:
            return _message("Request body too large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            _, spans = await asyncio.to_thread(
                decode_request,
                body,
                content_type=request.headers.get("content-type", ""),
                encoding=request.headers.get("content-encoding"),
            )
        except InvalidSpansError as error:
            return _message(str(error), HTTPStatus.BAD_REQUEST)
        try:
            # Answer only when they are stored: a client without an answer sends them again.
            await asyncio.wrap_future(self._store.add(spans))
        except (sqlite3.Error, RuntimeError) as error:
            return _message(f"Cannot store spans: {error}", HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({})

    async def _observations(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        query = request.url.query
        trace_id = request.query_params.get("traceId")
        # B33: in a thread, as decoding is: one hostile trace must not stop the page for all.
        spans = await asyncio.to_thread(received_spans, self._store.path, trace_id)
        status, content = observations_page(spans, query)
        return JSONResponse(content, status_code=status)

    async def _projects(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse(_PROJECT)

    def _refusal(self, request: Request) -> Response | None:
        if is_authorized(request.headers.get("authorization"), **self._keys):
            return None
        return _message("Invalid credentials", HTTPStatus.UNAUTHORIZED)


async def _body(request: Request) -> bytes | None:
    """Read the body, or return None if it is too large."""
    declared = request.headers.get("content-length", "0")
    # A chunked body declares no length, so the bytes are counted, too.
    if not declared.isdecimal() or int(declared) > _LARGEST_BODY:
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_BODY:
            return None
    return bytes(body)


def _message(text: str, status: HTTPStatus) -> Response:
    return JSONResponse({"message": text}, status_code=status)


_HEARTBEAT_SECONDS: Final = 15.0
_BATCH_SECONDS: Final = 0.2
_MOST_CHANGED_TRACES: Final = 500


class ChangeStream:
    """Server-sent events with the IDs of changed traces; it belongs to one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Event, set[str]] = {}
        self._is_closed = False

    def publish(self, trace_ids: Sequence[str]) -> None:
        """Send IDs to all listeners."""
        for event, pending in self._listeners.items():
            pending.update(trace_ids)
            event.set()

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        for event in self._listeners:
            event.set()

    async def stream(self) -> AsyncGenerator[str]:
        """Stream the IDs of changed traces, a few times per second at most."""
        event, pending = asyncio.Event(), set[str]()
        # No queue: a page that reads slowly holds one set of IDs, however many spans arrive.
        self._listeners[event] = pending
        try:
            yield "retry: 1000\n\n"
            while not self._is_closed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), _HEARTBEAT_SECONDS)
                if pending and not self._is_closed:
                    # Wait for more: each event makes every open page read its list.
                    await asyncio.sleep(_BATCH_SECONDS)
                # Some may be cut: pages read their lists on any event.
                changed = sorted(pending)[:_MOST_CHANGED_TRACES]
                pending.clear()
                event.clear()
                yield f"data: {json.dumps(changed)}\n\n" if changed else ": heartbeat\n\n"
        finally:
            del self._listeners[event]


_STATIC: Final = Path(__file__).with_name("static")
_ASSETS: Final = {
    "/page.css": "text/css",
    "/page.js": "text/javascript",
    "/icon.svg": "image/svg+xml",
}
_LISTED_TRACES: Final = 200


class PageRoutes:
    """The page, and the requests that it makes."""

    def __init__(self, database: Path, changes: ChangeStream) -> None:
        self._database = database
        self._changes = changes

    @property
    def routes(self) -> list[Route]:
        """Routes of the page; a trace has the same path as in Langfuse."""
        return [
            Route("/", _page),
            Route("/trace/{trace_id}", _page),
            *(Route(path, _asset) for path in _ASSETS),
            Route("/api/traces", self._traces),
            Route("/api/traces/{trace_id}", self._trace),
            Route("/api/traces/{trace_id}/spans/{span_id}", self._span),
            Route("/api/changes", self._events),
        ]

    async def _traces(self, request: Request) -> Response:
        given = request.query_params
        limit = given.get("limit", "")
        found = await asyncio.to_thread(
            list_traces,
            self._database,
            tenant=given.get("tenant") or None,
            search=given.get("search", ""),
            errors=given.get("errors") == "1",
            limit=int(limit) if limit.isdecimal() and limit.isascii() else _LISTED_TRACES,
        )
        return JSONResponse(found)

    async def _trace(self, request: Request) -> Response:
        trace_id = request.path_params["trace_id"]
        return _found(await asyncio.to_thread(read_trace, self._database, trace_id))

    async def _span(self, request: Request) -> Response:
        trace_id, span_id = (request.path_params[name] for name in ("trace_id", "span_id"))
        return _found(await asyncio.to_thread(read_span, self._database, trace_id, span_id))

    async def _events(self, _: Request) -> Response:
        return StreamingResponse(self._changes.stream(), media_type="text/event-stream")


async def _page(_: Request) -> Response:
    return FileResponse(_STATIC / "index.html", media_type="text/html; charset=utf-8")


async def _asset(request: Request) -> Response:
    path = request.url.path
    return FileResponse(_STATIC / path.removeprefix("/"), media_type=_ASSETS[path])


def _found(content: dict[str, Any] | None) -> Response:
    if content is None:
        return JSONResponse({"message": "Trace not found"}, status_code=HTTPStatus.NOT_FOUND)
    return JSONResponse(content)
