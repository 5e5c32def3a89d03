"""Tenant records, and the directories that they come from.

A directory reads the configuration or calls a function; an open one knows every tenant.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, Self

from orkestra.config import LangfuseProject, TenantSettings
from orkestra.errors import ConfigurationError, InvalidTenantError
from orkestra.tenancy import check_tenant_id

NORMAL_PRIORITY: Final = 3
"""The server's default priority key; smaller numbers go first."""

_LEAST_URGENT: Final = 5
_WEIGHTS: Final = (0.001, 1000.0)


class TenantStatus(StrEnum):
    """Status of a tenant."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    """It cannot start work; running work can still be signalled, cancelled and read."""


@dataclass(frozen=True)
class TenantRecord:
    """Entry of one tenant.

    Attributes:
        tenant: The tenant's ID.
        status: `SUSPENDED` refuses new work.
        namespace: A namespace of its own; None means the shared one, `temporal.namespace`.
        task_queues: Queues of its own, by the name in the code. Queues without an entry here are
            shared, unless they are another tenant's own.
        fairness_weight: Its share of a queue beside the others', 0.001 to 1000; None means 1.
        most_urgent_priority: The smallest priority key that it may use, 1 to 5; 3 is normal.
        encryption_key: Reference of the key that encrypts its payloads.
        langfuse: A Langfuse project of its own; None means the shared one.

    Raises:
        InvalidTenantError: The tenant is malformed.
        ConfigurationError: A value is out of range, or a queue of its own is mapped again.
    """

    tenant: str
    _: KW_ONLY
    status: TenantStatus = TenantStatus.ACTIVE
    namespace: str | None = None
    task_queues: Mapping[str, str] = field(default_factory=dict[str, str])
    fairness_weight: float | None = None
    most_urgent_priority: int = NORMAL_PRIORITY
    encryption_key: str | None = None
    langfuse: LangfuseProject | None = None

    def __post_init__(self) -> None:
        check_tenant_id(self.tenant)
        lightest, heaviest = _WEIGHTS
        if self.fairness_weight is not None and not lightest <= self.fairness_weight <= heaviest:
            raise self._error(f"fairness_weight {self.fairness_weight!r} is not 0.001 to 1000")
        if not 1 <= self.most_urgent_priority <= _LEAST_URGENT:
            raise self._error(f"most_urgent_priority {self.most_urgent_priority!r} is not 1 to 5")
        for name, own in self.task_queues.items():
            if not name or not own:
                raise self._error(f"task queue {name!r} is mapped to {own!r}: neither may be empty")
            if self.task_queues.get(own, own) != own:
                raise self._error(
                    f"task queue {own!r} is its own and mapped to another: remove one"
                )

    @property
    def is_active(self) -> bool:
        """True where the tenant may start work."""
        return self.status is TenantStatus.ACTIVE

    @property
    def is_dedicated(self) -> bool:
        """True where the tenant has a queue or a namespace of its own."""
        return self.namespace is not None or bool(self.task_queues)

    def _error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"tenant {self.tenant!r} in the directory: {problem}")


class TenantDirectory(Protocol):
    """Directory of tenants. Whatever it raises counts as no answer, and it is asked again."""

    async def find(self, tenant: str) -> TenantRecord | None:
        """Return the record of a tenant; None where there is no such tenant."""
        ...

    async def dedicated(self) -> Collection[TenantRecord]:
        """Return the tenants that have a queue or a namespace of their own.

        Other tenants may not name those queues, and workers serve them.
        """
        ...


class OpenTenantDirectory:
    """Directory of every well-formed tenant: active, in the shared namespace and queues."""

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`."""
        return TenantRecord(tenant)

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`."""
        return ()


class StaticTenantDirectory:
    """Directory of the given tenants.

    Args:
        records: One for each tenant.

    Raises:
        ConfigurationError: A tenant has two records.
    """

    def __init__(self, records: Iterable[TenantRecord]) -> None:
        self._records: dict[str, TenantRecord] = {}
        for record in records:
            if self._records.setdefault(record.tenant, record) is not record:
                msg = f"tenant {record.tenant!r} has two records in the directory: remove one"
                raise ConfigurationError(msg)
        self._dedicated = tuple(r for r in self._records.values() if r.is_dedicated)

    @classmethod
    def from_settings(cls, tenants: Mapping[str, TenantSettings]) -> Self:
        """Make the directory of the tenants in `orkestra.toml`.

        Args:
            tenants: `OrkestraConfig.tenants`.

        Raises:
            ConfigurationError: A tenant ID is malformed, or a tenant's settings are contradictory.
        """
        return cls(_record(tenant, settings) for tenant, settings in tenants.items())

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`."""
        return self._records.get(tenant)

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`."""
        return self._dedicated


class CallableTenantDirectory:
    """Directory that calls your functions. A function that is not async runs in a thread.

    Args:
        find: Returns one tenant's record.
        dedicated: Lists the tenants with a queue or a namespace of their own. Required where `find`
            returns such records, because only this list says who owns a queue.

    Example:
        ```python
        directory = CallableTenantDirectory(accounts.find, dedicated=accounts.with_own_queues)
        manager = TemporalConnectionManager(config, directory=directory)
        ```
    """

    def __init__(
        self,
        find: Callable[[str], TenantRecord | Awaitable[TenantRecord | None] | None],
        *,
        dedicated: Callable[[], Iterable[TenantRecord] | Awaitable[Iterable[TenantRecord]]]
        | None = None,
    ) -> None:
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
