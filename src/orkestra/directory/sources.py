"""Where records come from: the configuration, a function, or nowhere, which admits every tenant."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Protocol, Self, TypeAlias

from orkestra.config import TenantSettings
from orkestra.directory.records import TenantRecord, TenantStatus
from orkestra.errors import ConfigurationError, InvalidTenantError

Find: TypeAlias = Callable[[str], TenantRecord | Awaitable[TenantRecord | None] | None]
"""Looks one tenant up; a function that is not async runs in a thread."""

Dedicated: TypeAlias = Callable[[], Iterable[TenantRecord] | Awaitable[Iterable[TenantRecord]]]
"""Lists the tenants with a queue or a namespace of their own."""


class TenantDirectory(Protocol):
    """Knows the tenants. Whatever it raises counts as no answer, and is asked again."""

    async def find(self, tenant: str) -> TenantRecord | None:
        """The record of a tenant, or None where there is no such tenant."""
        ...

    async def dedicated(self) -> Collection[TenantRecord]:
        """The tenants that have a queue or a namespace of their own.

        Others may not name those queues, whoever asks for them; workers serve those places.
        """
        ...


class OpenTenantDirectory:
    """Knows every well-formed tenant: active, and in the shared namespace and queues."""

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`."""
        return TenantRecord(tenant)

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`."""
        return ()


class StaticTenantDirectory:
    """Knows the tenants it was given.

    Args:
        records: One for each tenant.

    Raises:
        ConfigurationError: Two records are of one tenant.
    """

    def __init__(self, records: Iterable[TenantRecord]) -> None:
        self._records: dict[str, TenantRecord] = {}
        for record in records:
            if self._records.setdefault(record.tenant, record) is not record:
                msg = f"two records of the directory are of tenant {record.tenant!r}: drop one"
                raise ConfigurationError(msg)
        self._dedicated = tuple(r for r in self._records.values() if r.is_dedicated)

    @classmethod
    def from_settings(cls, tenants: Mapping[str, TenantSettings]) -> Self:
        """The directory that stands in `orkestra.toml`.

        Args:
            tenants: `OrkestraConfig.tenants`.

        Raises:
            ConfigurationError: A tenant ID is malformed, or a tenant's settings contradict.
        """
        return cls(_record(tenant, settings) for tenant, settings in tenants.items())

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`."""
        return self._records.get(tenant)

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`."""
        return self._dedicated


class CallableTenantDirectory:
    """Asks functions of yours, sync or async.

    Args:
        find: Looks one tenant up.
        dedicated: Lists the tenants with a queue or a namespace of their own; needed where `find`
            returns such records, because nothing else says whose a queue is.

    Example:
        ```python
        directory = CallableTenantDirectory(accounts.find, dedicated=accounts.with_own_queues)
        manager = TemporalConnectionManager(config, directory=directory)
        ```
    """

    def __init__(self, find: Find, *, dedicated: Dedicated | None = None) -> None:
        self._find = find
        self._list = dedicated

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`."""
        record: TenantRecord | None = await _call(self._find, tenant)
        return record

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`."""
        if self._list is None:
            return ()
        records: Iterable[TenantRecord] = await _call(self._list)
        return tuple(records)


async def _call(function: Callable[..., Any], *args: str) -> Any:
    is_async = inspect.iscoroutinefunction(function)
    found = function(*args) if is_async else await asyncio.to_thread(function, *args)
    return await found if inspect.isawaitable(found) else found


def _record(tenant: str, settings: TenantSettings) -> TenantRecord:
    try:
        return TenantRecord(
            tenant,
            status=TenantStatus(settings.status),
            namespace=settings.namespace,
            task_queues=settings.task_queues,
            fairness_weight=settings.fairness_weight,
            most_urgent_priority=settings.most_urgent_priority,
            encryption_key=settings.encryption_key,
            langfuse=settings.langfuse,
        )
    except InvalidTenantError as error:
        msg = f"tenants.{tenant}: {error}"
        raise ConfigurationError(msg) from error
