"""The part of Langfuse's API that applications use: spans in, observations out."""

import asyncio
import sqlite3
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from orkestra.otlp import TRACES_PATH, InvalidSpansError, decode_request, is_authorized
from orkestra.otlp.observations import OBSERVATIONS_PATH, observations_page
from orkestra.tracepage.queries import received_spans
from orkestra.tracepage.store import TraceStore

_LARGEST_BODY: Final = 64 * 1024 * 1024
_PROJECT: Final = {"data": [{"id": "local", "name": "local"}]}


class Intake:
    """Answers as a Langfuse with one project does."""

    def __init__(self, store: TraceStore, *, public_key: str, secret_key: str) -> None:
        """Answer for a store.

        Args:
            store: Where spans go.
            public_key: The project's public key.
            secret_key: Its secret key.
        """
        self._store = store
        self._keys = {"public_key": public_key, "secret_key": secret_key}

    @property
    def routes(self) -> list[Route]:
        """What it answers to."""
        return [
            Route(TRACES_PATH, self._take, methods=["POST"]),
            Route(OBSERVATIONS_PATH, self._observations, methods=["GET"]),
            Route("/api/public/projects", self._projects, methods=["GET"]),
        ]

    async def _take(self, request: Request) -> Response:
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
            # Answered when they are kept: whoever gets no answer sends them again.
            await asyncio.wrap_future(self._store.add(spans))
        except (sqlite3.Error, RuntimeError) as error:
            return _message(f"Cannot keep spans: {error}", HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({})

    async def _observations(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        query = request.url.query
        trace_id = request.query_params.get("traceId")
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
    """The body, or None where it is too large."""
    declared = request.headers.get("content-length", "0")
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
