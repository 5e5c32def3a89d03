"""`CachedTenantDirectory`: a directory that answers at once, and while its source is away."""

import time
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Final

from orkestra.directory.memory import Answer, Memory, Terms
from orkestra.directory.records import TenantRecord
from orkestra.directory.sources import TenantDirectory
from orkestra.errors import ConfigurationError

_ALL: Final = "all"


class CachedTenantDirectory:
    """Remembers what another directory says.

    A change there, a suspension for instance, takes effect within `ttl`. While the source is away,
    tenants that were known go on for `stale_for` more; then their starts are refused. That a
    tenant is unknown is believed for five seconds at most, and only while the source answers.

    It belongs to no event loop, and may be read from any thread.

    Args:
        source: The directory to ask.
        ttl: How long an answer holds.
        stale_for: How much longer it is used where the source does not answer.
        deadline: How long the source may take. Workflow tasks wait a second at most, and are tried
            again with the answer that has come by then.
        max_entries: How many tenants are remembered, and as many unknown ones: the oldest go.
        clock: Seconds that never go back, for tests.

    Example:
        ```python
        directory = CachedTenantDirectory(
            CallableTenantDirectory(accounts.find), ttl=timedelta(seconds=5)
        )
        ```
    """

    def __init__(
        self,
        source: TenantDirectory,
        *,
        ttl: timedelta = timedelta(seconds=30),
        stale_for: timedelta = timedelta(minutes=10),
        deadline: timedelta = timedelta(seconds=1),
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        terms = Terms(
            ttl=ttl, stale_for=stale_for, deadline=deadline, max_entries=max_entries, clock=clock
        )
        self.source = source
        self._records = Memory[TenantRecord](terms, "tenant")
        self._dedicated = Memory[Collection[TenantRecord]](terms, "places")

    def __len__(self) -> int:
        """How many tenants are remembered, unknown ones among them."""
        return len(self._records)

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`.

        Raises:
            DirectoryUnavailableError: The source gave no answer, and none is remembered.
        """
        return await self._records.get(tenant, lambda: self._find(tenant))

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`.

        Raises:
            DirectoryUnavailableError: The source gave no answer, and none is remembered.
        """
        return await self._dedicated.get(_ALL, self._list) or ()

    def remembered(self, tenant: str) -> Answer[TenantRecord] | None:
        """What `find()` would return without asking, or None where it would ask."""
        return self._records.fresh(tenant)

    def remembered_dedicated(self) -> Collection[TenantRecord] | None:
        """What `dedicated()` would return without asking, or None where it would ask."""
        answer = self._dedicated.fresh(_ALL)
        return None if answer is None else answer.value

    def last(self, tenant: str) -> TenantRecord | None:
        """What was last said of a tenant, however long ago."""
        answer = self._records.last(tenant)
        return None if answer is None else answer.value

    def forget_dedicated(self) -> None:
        """Ask for the tenants with places of their own next time."""
        self._dedicated.forget(_ALL)

    async def _find(self, tenant: str) -> TenantRecord | None:
        record = await self.source.find(tenant)
        if record is not None and record.tenant != tenant:
            msg = f"the record found for {tenant!r} is of {record.tenant!r}: compare IDs exactly"
            raise ConfigurationError(msg)
        return record

    async def _list(self) -> Collection[TenantRecord]:
        return tuple(await self.source.dedicated())
