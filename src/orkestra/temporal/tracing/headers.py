"""The Temporal header that carries the trace context, and the attributes that a trace shows.

The header is plain JSON, outside of every payload codec, because workers read it before they
decode arguments. `orkestra.tracing.TraceContext` says what it contains.
"""

from collections.abc import Mapping
from typing import Final

from temporalio.api.common.v1 import Payload

from orkestra.tenancy import scope_id
from orkestra.tracing import TraceAttributes, TraceContext, fitting

TRACE_HEADER: Final = "_orkestra-trace"

_NO_CONTEXT: Final = TraceContext()

NexusHeaders = Mapping[str, str]
Headers = Mapping[str, Payload]


def read_header(headers: Headers) -> TraceContext:
    """Read the trace context; it is empty where the header is missing or malformed."""
    payload = headers.get(TRACE_HEADER)
    return (payload and TraceContext.decode(payload.data)) or _NO_CONTEXT


def write_header(headers: Headers, context: TraceContext | None) -> dict[str, Payload]:
    """Copy headers with the trace context in place of any that was there; None removes it."""
    others = {name: payload for name, payload in headers.items() if name != TRACE_HEADER}
    if context is None:
        return others
    # Not by the data converter, whose codec workers could not undo this early.
    payload = Payload(metadata={"encoding": b"json/plain"}, data=context.encode())
    return {**others, TRACE_HEADER: payload}


def read_nexus_header(headers: NexusHeaders) -> TraceContext:
    """Read the trace context of a Nexus operation; HTTP may have changed the name's case."""
    # HTTP may have changed the name's case (B12).
    values = (value for name, value in headers.items() if name.lower() == TRACE_HEADER)
    return TraceContext.decode(next(values, "").encode()) or _NO_CONTEXT


def write_nexus_header(headers: NexusHeaders | None, context: TraceContext) -> dict[str, str]:
    """Copy the headers of a Nexus operation with the trace context in them, in ASCII."""
    given = headers or {}
    others = {name: value for name, value in given.items() if name.lower() != TRACE_HEADER}
    return {**others, TRACE_HEADER: context.encode(ascii_only=True).decode()}


def with_tenant_prefix(
    attributes: TraceAttributes, *, tenant: str | None, workflow_id: str
) -> TraceAttributes:
    """Prefix user and session with the tenant, and fill in the session.

    Tenants may share a Langfuse project, which would take their users of one name for one user
    (B21): the caller's `ada` is shown as `acme:ada`. A caller without a session gets the workflow's
    ID for one.
    """
    user, session = attributes.user_id, attributes.session_id or workflow_id
    if tenant is not None:
        user, session = user and scope_id(tenant, user), scope_id(tenant, session)
    return TraceAttributes(
        user_id=user and fitting(user),
        session_id=fitting(session),
        tags=attributes.tags,
        metadata=attributes.metadata,
    )
