"""Activities called directly, as a tenant's."""

import inspect
from collections.abc import Callable
from typing import Any

from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from orkestra.tenancy import check_tenant_id, tenant_scope


class TenantActivityEnvironment(ActivityEnvironment):
    """The SDK's environment for one activity, in which `current_tenant()` is the tenant.

    Example:
        ```python
        assert await TenantActivityEnvironment("acme").run(charge, order) == "paid"
        ```
    """

    def __init__(self, tenant: str, *, client: Client | None = None) -> None:
        """Run for the tenant.

        Args:
            tenant: A well-formed tenant ID.
            client: What `activity.client()` returns: one that is bound to the tenant.

        Raises:
            InvalidTenantError: The tenant is malformed.
        """
        super().__init__(client)
        self._tenant = check_tenant_id(tenant)

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an activity for the tenant.

        Args:
            fn: The activity.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns: for an async activity, something to await.
        """
        if inspect.iscoroutinefunction(fn):

            async def entered(*args: Any, **kwargs: Any) -> Any:
                with tenant_scope(self._tenant):
                    return await fn(*args, **kwargs)

            return super().run(entered, *args, **kwargs)
        with tenant_scope(self._tenant):
            return super().run(fn, *args, **kwargs)
