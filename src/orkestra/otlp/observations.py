"""What Langfuse's public API says of the observations of a trace, page by page."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from orkestra.otlp import ReceivedSpan

OBSERVATIONS_PATH: Final = "/api/public/v2/observations"
_PROJECT_ID: Final = "project"

_DEFAULT_LIMIT: Final = 50
_MAX_LIMIT: Final = 1000
_NANOSECONDS: Final = 1_000_000_000


class _BadRequestError(Exception):
    """The request has a parameter that Langfuse refuses."""


def observations_page(spans: Sequence[ReceivedSpan], query: str) -> tuple[HTTPStatus, object]:
    """Answer `GET /api/public/v2/observations` as the real one does, newest first.

    Of its filters it knows `traceId`, of its fields all of `core` and most of `basic`.

    Args:
        spans: What is there, in any order; one that came twice is listed twice.
        query: The request's query string.

    Returns:
        The status and what the body says as JSON.
    """
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    try:
        limit, offset = _limit(given), _offset(given)
    except _BadRequestError as error:
        refusal = {"message": "Invalid request data", "error": str(error)}
        return HTTPStatus.BAD_REQUEST, refusal
    trace_id = given.get("traceId")
    found = [span for span in spans if trace_id in (None, span.trace_id)]
    found.sort(key=lambda span: span.start_ns, reverse=True)
    meta: dict[str, str] = {}
    if offset + limit < len(found):
        meta["cursor"] = base64.b64encode(json.dumps(offset + limit).encode()).decode()
    data = [_observation(span) for span in found[offset : offset + limit]]
    return HTTPStatus.OK, {"data": data, "meta": meta}


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(_DEFAULT_LIMIT))
    if not text.isdecimal() or not 0 < int(text) <= _MAX_LIMIT:
        msg = f"limit must be 1 to {_MAX_LIMIT}"
        raise _BadRequestError(msg)
    return int(text)


def _offset(given: Mapping[str, str]) -> int:
    if "cursor" not in given:
        return 0
    try:
        return int(json.loads(base64.b64decode(given["cursor"], validate=True)))
    except (binascii.Error, ValueError, TypeError) as error:
        msg = "cursor is malformed"
        raise _BadRequestError(msg) from error


def _observation(span: ReceivedSpan) -> dict[str, Any]:
    return {
        "id": span.span_id,
        "traceId": span.trace_id,
        "startTime": _time(span.start_ns),
        "endTime": _time(span.end_ns),
        "projectId": _PROJECT_ID,
        "parentObservationId": span.parent_id,
        "type": (span.type or "span").upper(),
        "name": span.name,
        "level": span.level,
        "statusMessage": span.status_message,
        "userId": span.user_id,
        "sessionId": span.session_id,
        "isRootObservation": span.parent_id is None or span.is_app_root,
    }


def _time(nanoseconds: int) -> str:
    """In milliseconds, as Langfuse's database has it."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
