"""The page itself, and what it asks for."""

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orkestra.tracepage.live import Changes
from orkestra.tracepage.queries import list_traces, read_span, read_trace

_STATIC: Final = Path(__file__).with_name("static")
_ASSETS: Final = {
    "/page.css": "text/css",
    "/page.js": "text/javascript",
    "/icon.svg": "image/svg+xml",
}
_LIMIT: Final = 200


class Views:
    """Shows a database of traces."""

    def __init__(self, database: Path, changes: Changes) -> None:
        """Show a database.

        Args:
            database: Where the traces are.
            changes: Tells which of them have changed.
        """
        self._database = database
        self._changes = changes

    @property
    def routes(self) -> list[Route]:
        """What it answers to; a trace has the path that it has in Langfuse."""
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
            limit=int(limit) if limit.isdecimal() and limit.isascii() else _LIMIT,
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
        return JSONResponse({"message": "No such trace"}, status_code=HTTPStatus.NOT_FOUND)
    return JSONResponse(content)
