"""The client's side: no call leaves without its tenant, and every ID is the tenant's own."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from temporalio.client import OutboundInterceptor

from orkestra.directory import Placement, Placements
from orkestra.errors import (
    ForbiddenOperationError,
    TenantError,
    TenantMismatchError,
    TenantRequiredError,
)
from orkestra.temporal.interceptors.tenant.calls import (
    CALLS,
    REFUSED,
    STARTS,
    Acting,
    Rule,
    named_id,
)
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.tenancy import AllTenants, current_tenant, owner_of

OnRefusal = Callable[[str, TenantError], None]
"""Called with a call that was refused, and why."""


class TenantClientOutbound(OutboundInterceptor):
    """Applies the rule of each call; the methods are made from the table of rules below."""

    def __init__(
        self,
        next: OutboundInterceptor,
        policy: TenantPolicy,
        tenant: str | AllTenants | None,
        *,
        placements: Placements,
        namespace: str | None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        """Act for the tenant; None means the tenant of the running code."""
        super().__init__(next)
        self._policy = policy
        self._tenant = tenant
        self._placements = placements
        self._namespace = namespace
        self._on_refusal = on_refusal

    def acting_tenant(self, call: str, server_id: str | None) -> str | None:
        """The tenant that a call acts for, or None where it may go without one.

        Args:
            call: What is attempted, for the error.
            server_id: The ID it names; an operator acts for the tenant in its prefix.

        Raises:
            TenantRequiredError: There is none and there must be one.
            TenantMismatchError: The client is bound to one tenant and the code acts for another.
        """
        running = current_tenant()
        if isinstance(self._tenant, AllTenants):
            named = None if server_id is None or self._policy.has_global_ids else server_id
            return running or (None if named is None else owner_of(named))
        if self._tenant is not None and running not in (None, self._tenant):
            msg = f"{call}: the client is bound to {self._tenant!r}, this code acts for {running!r}"
            raise TenantMismatchError(msg)
        tenant = self._tenant or running
        if tenant is None and self._policy.is_required:
            msg = f"{call} needs a tenant: use a client made with tenant=..., or tenant_scope(...)"
            raise TenantRequiredError(msg)
        return tenant

    @contextmanager
    def noting_refusals(self, call: str) -> Generator[None]:
        """Tell whoever counts them of refusals in the block."""
        try:
            yield
        except TenantError as error:
            if self._on_refusal is not None:
                self._on_refusal(call, error)
            raise

    def apply(self, call: str, rule: Rule | None, input: Any) -> None:
        """Write the tenant into the input of a call that starts nothing.

        Raises:
            TenantError: The call may not be made so, or not by a tenant.
        """
        tenant = self.acting_tenant(call, named_id(input))
        if tenant is None:
            return
        if rule is None:
            msg = f"{call} is not available to tenant {tenant!r}: use a client of ALL_TENANTS"
            raise ForbiddenOperationError(msg)
        rule(Acting(self._policy, tenant), input)

    async def apply_to_start(self, call: str, rule: Rule, input: Any) -> None:
        """Write the tenant into the input of a call that leads to new work, where it may.

        Raises:
            TenantError: The call may not be made so, or not by this tenant now.
            DirectoryUnavailableError: The directory gave no answer.
        """
        tenant = self.acting_tenant(call, named_id(input))
        if tenant is not None:
            placement = await self._admitted(tenant)
            rule(Acting(self._policy, tenant, placement), input)

    async def _admitted(self, tenant: str) -> Placement:
        """Operators are not stopped by a suspension here, but workers refuse what they start."""
        placement = await self._placements.of(tenant)
        if not isinstance(self._tenant, AllTenants):
            placement.require_active()
        if self._namespace is not None:
            placement.require_namespace(self._namespace)
        return placement


def _method(call: str, rule: Rule | None) -> Any:
    def method(self: TenantClientOutbound, input: Any) -> Any:
        with self.noting_refusals(call):
            self.apply(call, rule, input)
        return getattr(self.next, call)(input)

    return method


def _starting_method(call: str, rule: Rule) -> Any:
    async def method(self: TenantClientOutbound, input: Any) -> Any:
        with self.noting_refusals(call):
            await self.apply_to_start(call, rule, input)
        return await getattr(self.next, call)(input)

    return method


def _override(call: str) -> Any:
    is_start = call in STARTS
    method = _starting_method(call, CALLS[call]) if is_start else _method(call, CALLS.get(call))
    method.__name__ = call
    method.__doc__ = "See base class."
    return method


for _call in (*CALLS, *REFUSED):
    setattr(TenantClientOutbound, _call, _override(_call))
