"""A trace's attributes as they are shown: the session filled in, all of them the tenant's own."""

from orkestra.tenancy import scope_id
from orkestra.tracing import TraceAttributes, fitting


def complete(
    attributes: TraceAttributes, *, tenant: str | None, workflow_id: str
) -> TraceAttributes:
    """The attributes to show.

    Tenants may share a Langfuse project, where users and sessions of one name would be one: what
    the caller calls `ada` is shown as `acme:ada`.

    Args:
        attributes: What the caller set.
        tenant: The tenant of the work.
        workflow_id: The session where the caller set none.
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
