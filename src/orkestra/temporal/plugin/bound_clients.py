"""The worker's client as the tasks of each tenant get it."""

from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from temporalio.client import Client

_REMEMBERED_TENANTS: Final = 256


class BoundClients:
    """Makes a client for each tenant whose tasks ask for it, and remembers some.

    Args:
        bind: Makes the client of a tenant out of the worker's.
    """

    def __init__(self, bind: Callable[[Client, str], Client]) -> None:
        self._bind = bind
        self._bound = WeakKeyDictionary[Client, dict[str, Client]]()

    def of(self, owner: Client, tenant: str) -> Client:
        """The worker's client, bound to the tenant."""
        bound = self._bound.setdefault(owner, {})
        if tenant not in bound:
            if len(bound) >= _REMEMBERED_TENANTS:
                bound.clear()
            bound[tenant] = self._bind(owner, tenant)
        return bound[tenant]
