"""For whom a call acts: the tenant that its client is bound to, or that of the running code."""

from orkestra.errors import ForbiddenOperationError, TenantMismatchError, TenantRequiredError
from orkestra.temporal.guard.shape import Allowed, Denied
from orkestra.tenancy import ALL_TENANTS, AllTenants, check_tenant_id, current_tenant


def plain_tenant(tenant: str | AllTenants | None) -> str | AllTenants | None:
    """The tenant as plain text, because a subclass could compare itself equal to anything.

    Raises:
        InvalidTenantError: The tenant is malformed.
    """
    return check_tenant_id(tenant) if tenant is not None and tenant is not ALL_TENANTS else tenant


def needs_tenant(row: Allowed | Denied) -> bool:
    """Whether an RPC is one that acts for a tenant."""
    return isinstance(row, Denied) or row.needs_tenant


def acting_tenant(
    rpc: str,
    row: Allowed | Denied,
    *,
    bound: str | AllTenants | None,
    is_required: bool,
) -> str | None:
    """Whose bounds hold: empty for calls that need no tenant, None where none hold.

    Args:
        rpc: Name of the RPC, for the error.
        row: Its row in the table.
        bound: The tenant that the client is bound to.
        is_required: Whether a call that needs a tenant is refused without.

    Raises:
        TenantMismatchError: The client is bound, and the running code acts for another tenant.
        TenantRequiredError: There is no tenant.
    """
    running = current_tenant()
    if isinstance(bound, AllTenants):
        return running
    if bound is not None:
        if running is not None and running != bound:
            msg = f"{rpc}: the client is bound to {bound!r}, this code acts for {running!r}"
            raise TenantMismatchError(msg)
        return bound
    if running is not None:
        return running
    if not is_required:
        return None
    if not needs_tenant(row):
        return ""
    msg = (
        f"{rpc} needs a tenant: use a client made with tenant=..., or tenant_scope(...);"
        " operators use tenant=ALL_TENANTS"
    )
    raise TenantRequiredError(msg)


def refuse_to_tenants(what: str, *, bound: str | AllTenants | None) -> None:
    """Refuse what serves all tenants.

    Args:
        what: Its name, for the error.
        bound: The tenant that the client is bound to.

    Raises:
        ForbiddenOperationError: The client is bound, or the running code acts for a tenant.
    """
    tenant = current_tenant() if bound is None or isinstance(bound, AllTenants) else bound
    if tenant is not None:
        msg = (
            f"{what} is refused to tenant {tenant!r}: workers and connections serve all"
            " tenants, use a client without tenant, outside of tenant_scope()"
        )
        raise ForbiddenOperationError(msg)
