"""The namespace and the task queues of each tenant, and of metric labels those that it may set.

A tenant may have a namespace and queues of its own. Other tenants may not name them, and workers
serve them. Every rule about that is in this module; clients, guard and workers ask it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orkestra.caches import LruCache
from orkestra.config import LangfuseProject
from orkestra.directory.cache import ALL, CachedTenantDirectory
from orkestra.directory.source import (
    OpenTenantDirectory,
    TenantDirectory,
    TenantRecord,
    TenantStatus,
)
from orkestra.errors import (
    ConfigurationError,
    DirectoryUnavailableError,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
)

SYSTEM_QUEUES: Final = ("/_sys/", "temporal-sys-")
"""Prefixes of the server's own queues, and of single partitions of a queue."""

_MAX_CACHED_TENANTS: Final = 10_000


class Placements:
    """Placements of all tenants, answered from the directory.

    Args:
        directory: The directory; one that does not cache is cached. None means an open one.
        shared_namespace: Namespace of tenants that have none of their own. An open directory
            places them in whichever namespace they come from.
    """

    def __init__(
        self, directory: TenantDirectory | None = None, *, shared_namespace: str | None = None
    ) -> None:
        self.is_open: bool = directory is None or isinstance(directory, OpenTenantDirectory)
        self._shared_namespace = None if self.is_open else shared_namespace
        self._directory = (
            directory
            if isinstance(directory, CachedTenantDirectory)
            else CachedTenantDirectory(directory or OpenTenantDirectory())
        )
        self._places = DedicatedPlaces((), self._shared_namespace)
        self._last = LruCache[str, Placement](_MAX_CACHED_TENANTS)
        self._open = lru_cache(_MAX_CACHED_TENANTS)(self._placement_if_open)

    async def of(self, tenant: str) -> "Placement":
        """Return where a tenant belongs.

        Raises:
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: The directory gave no answer.
        """
        if self.is_open:
            return self._open(tenant)
        # Two answers of a source that changes: a record and the list may contradict each other.
        record = await self._directory.find(tenant)
        if record is None:
            raise _unknown(tenant)
        places = self._index(await self._directory.dedicated())
        if not self._agree(record, places):  # the list is older than the record
            self._directory.places.forget(ALL)
            places = self._index(await self._directory.dedicated())
        if not self._agree(record, places):
            msg = (
                f"the tenant directory gives {tenant!r} a place of its own, but does not list it in"
                " dedicated(): list it, so that other tenants cannot use the place"
            )
            raise DirectoryUnavailableError(msg)
        return self._placement(record, places)

    def remembered(self, tenant: str) -> "Placement | None":
        """Return what `of()` would without asking; None where it would ask. For any thread.

        Raises:
            UnknownTenantError: The directory said just now that it does not know the tenant.
        """
        if self.is_open:
            return self._open(tenant)
        entry = self._directory.records.fresh(tenant)
        dedicated = self._directory.places.fresh(ALL)
        if entry is None or dedicated is None:
            return None
        if entry.value is None:
            raise _unknown(tenant)
        places = self._index(dedicated.value or ())
        agreed = self._agree(entry.value, places)
        return self._placement(entry.value, places) if agreed else None

    def last_known(self, tenant: str) -> "Placement | None":
        """Return the last answer of `of()`, however old; None where it was not asked."""
        return self._open(tenant) if self.is_open else self._last.get(tenant)

    def known_project(self, tenant: str) -> LangfuseProject | None:
        """Find the Langfuse project of a tenant without asking; None means the shared project.

        Raises:
            LookupError: The directory was not asked for the tenant yet.
        """
        placement = self.last_known(tenant)
        if placement is None:
            raise LookupError(tenant)
        return placement.record.langfuse

    def last(self, tenant: str) -> "Placement | None":
        """Return where a tenant belonged when the directory was last asked, however long ago.

        For those who check what `of()` has just admitted, and may not ask.
        """
        if self.is_open:
            return self._open(tenant)
        entry = self._directory.records.last(tenant)
        if entry is None or entry.value is None:
            return None
        return self._placement(entry.value, self._places)

    async def served(self, task_queue: str, *, namespace: str) -> "list[Place]":
        """List every place where work for a queue of the code can arrive, the shared one first.

        Args:
            task_queue: Name of the queue in the code.
            namespace: Namespace of tenants that have none of their own.

        Raises:
            DirectoryUnavailableError: The directory gave no answer.
        """
        dedicated = self._index(await self._directory.dedicated())
        # A tenant with a namespace of its own has the queue there, mapped or not.
        places = {
            (record.namespace or namespace, record.task_queues.get(task_queue, task_queue))
            for record in dedicated.records
        } - {(namespace, task_queue)}
        return [
            Place(namespace, task_queue, dedicated.owners(namespace, task_queue)),
            *(Place(*place, dedicated.owners(*place)) for place in sorted(places)),
        ]

    async def require_exclusive(
        self, tenants: Collection[str], *, namespace: str, task_queue: str
    ) -> None:
        """Refuse a queue that tenants other than the given ones may use.

        Raises:
            ConfigurationError: Others may use it, or one of the given ones may not.
            UnknownTenantError: The directory does not know one of them.
            DirectoryUnavailableError: The directory gave no answer.
        """
        owners = self._index(await self._directory.dedicated()).owners(namespace, task_queue)
        where = f"task queue {task_queue!r} of namespace {namespace!r}"
        for tenant in sorted(tenants):
            await self.of(tenant)
        if not owners:
            msg = f"{where} is shared, and a worker of some tenants would fail the others' work"
        elif others := owners - set(tenants):
            msg = f"{where} is also for {sorted(others)}, whose work this worker would fail"
        elif absent := set(tenants) - owners:
            msg = f"{where} is not for {sorted(absent)}, whose work never arrives there"
        else:
            return
        msg += ": map the tenants to a queue of their own in the directory, or leave tenants out"
        raise ConfigurationError(msg)

    def _placement_if_open(self, tenant: str) -> "Placement":
        return Placement(TenantRecord(tenant), None, self._places)

    def _index(self, dedicated: Collection[TenantRecord]) -> "DedicatedPlaces":
        places = self._places
        if places.records is not dedicated:  # the cache returns the same tuple until it asks again
            places = self._places = DedicatedPlaces(dedicated, self._shared_namespace)
        return places

    def _placement(self, record: TenantRecord, places: "DedicatedPlaces") -> "Placement":
        placement = Placement(record, record.namespace or self._shared_namespace, places)
        self._last.put(record.tenant, placement)
        return placement

    def _agree(self, record: TenantRecord, places: "DedicatedPlaces") -> bool:
        """True if the list of dedicated places has all that the tenant's record names."""
        namespace = record.namespace or self._shared_namespace
        owners = [places.owners(namespace, own) for own in record.task_queues.values()]
        if record.namespace not in (None, self._shared_namespace):
            owners.append(places.namespace_owners(record.namespace))
        return all(record.tenant in each for each in owners)


def _unknown(tenant: str) -> UnknownTenantError:
    msg = f"unknown tenant {tenant!r}: add it to [tenants] in orkestra.toml, or to your directory"
    return UnknownTenantError(msg)


@dataclass(frozen=True)
class Placement:
    """Namespace and queues of one tenant.

    Attributes:
        record: The tenant's entry in the directory.
        namespace: Its namespace; None where any will do.
        places: The places of tenants with places of their own.
    """

    record: TenantRecord
    namespace: str | None
    places: "DedicatedPlaces"

    def require_active(self) -> None:
        """Refuse a tenant that may not start work.

        Raises:
            TenantSuspendedError: It may not.
        """
        if self.record.status is not TenantStatus.ACTIVE:
            msg = f"tenant {self.record.tenant!r} is suspended: it may not start work now"
            raise TenantSuspendedError(msg)

    def require_namespace(self, namespace: str) -> None:
        """Refuse a namespace that is not the tenant's.

        Raises:
            TenantMismatchError: It is not.
        """
        if self.namespace not in (None, namespace):
            msg = (
                f"tenant {self.record.tenant!r} is placed in namespace {self.namespace!r}, and this"
                f" is {namespace!r}: use a client made with tenant=, without a namespace"
            )
            raise TenantMismatchError(msg)

    def queue(self, name: str, *, namespace: str | None = None) -> str:
        """Return the server's name of a queue for this tenant.

        Args:
            name: The name in the code: mapped for the tenant, its own, or shared.
            namespace: Where the work runs; None means the tenant's namespace. In another one,
                where it was started before the tenant was moved, nothing is mapped.

        Raises:
            TenantMismatchError: The queue is other tenants', or the server's.
        """
        # Work from before a move keeps its queue names: in its old namespace nothing is mapped.
        is_home = namespace is None or self.namespace in (None, namespace)
        if is_home and (own := self.record.task_queues.get(name)) is not None:
            return own
        owners = self.places.owners(namespace or self.namespace, name)
        is_foreign = owners and self.record.tenant not in owners
        if is_foreign or name.startswith(SYSTEM_QUEUES):
            msg = f"task queue {name!r} is not one of tenant {self.record.tenant!r}: use its own"
            raise TenantMismatchError(msg)
        return name

    def require_place(self, namespace: str, task_queue: str, *, is_start: bool) -> None:
        """Refuse work of this tenant that does not belong where it arrived.

        Work that was started before the tenant was moved still arrives where the tenant was; it
        belongs there unless the place is another tenant's now.

        Args:
            namespace: Namespace of the worker.
            task_queue: Queue of the worker.
            is_start: Whether the work starts here, and is not part of something older.

        Raises:
            TenantMismatchError: It does not belong there.
        """
        owners = self.places.owners(namespace, task_queue)
        own = self.record.task_queues.get(task_queue, task_queue)
        problem = None
        if owners and self.record.tenant not in owners:
            problem = f"queue {task_queue!r} of namespace {namespace!r} is not this tenant's"
        elif is_start and self.namespace not in (None, namespace):
            problem = f"the directory places this tenant in namespace {self.namespace!r}"
        elif is_start and own != task_queue:
            problem = f"the directory maps queue {task_queue!r} to {own!r} for this tenant"
        if problem is not None:
            raise TenantMismatchError(problem)


@dataclass(frozen=True)
class Place:
    """A task queue of a namespace.

    Attributes:
        namespace: Name of the namespace.
        task_queue: Name of the queue on the server.
        owners: The tenants that are placed there; empty where it is shared.
    """

    namespace: str
    task_queue: str
    owners: frozenset[str] = frozenset()


class DedicatedPlaces:
    """Owners of the queues and namespaces that are not shared.

    Args:
        records: The tenants with places of their own.
        shared_namespace: Namespace of tenants that have none of their own.
    """

    def __init__(self, records: Iterable[TenantRecord], shared_namespace: str | None) -> None:
        self.records: tuple[TenantRecord, ...] = tuple(records)
        queues = defaultdict[tuple[str | None, str], set[str]](set)
        namespaces = defaultdict[str | None, set[str]](set)
        for record in self.records:
            namespace = record.namespace or shared_namespace
            if record.namespace is not None and record.namespace != shared_namespace:
                namespaces[record.namespace].add(record.tenant)
            for own in record.task_queues.values():
                queues[namespace, own].add(record.tenant)
        self._queues: Mapping[tuple[str | None, str], set[str]] = queues
        self._namespaces: Mapping[str | None, set[str]] = namespaces

    def owners(self, namespace: str | None, task_queue: str) -> frozenset[str]:
        """Return the tenants that a queue is for; empty where it is shared."""
        of_namespace = self._namespaces.get(namespace, ())
        of_queue = self._queues.get((namespace, task_queue), ())
        if of_namespace and of_queue:
            return frozenset(of_namespace).intersection(of_queue)
        return frozenset(of_namespace or of_queue)

    def namespace_owners(self, namespace: str | None) -> frozenset[str]:
        """Return the tenants that a namespace is for; empty where it is shared."""
        return frozenset(self._namespaces.get(namespace, ()))


UNKNOWN: Final = "unknown"
MAX_LABELLED: Final = 1_000
"""Limit of tenants with a time series of their own in one process; later ones are "unknown"."""


class TenantLabels:
    """Metric labels of tenants. Text that a caller chose never becomes a label (B23).

    Args:
        placements: Knows the tenants; None means that there is no label.
    """

    def __init__(self, placements: Placements | None = None) -> None:
        self._placements = placements
        self._labelled: set[str] = set()

    def of(self, tenant: str | None) -> dict[str, str]:
        """Return the label, without asking the directory.

        Args:
            tenant: The tenant of the counted event, if any.
        """
        if self._placements is None:
            return {}
        return {"tenant": tenant if tenant and self._is_known(tenant) else UNKNOWN}

    def _is_known(self, tenant: str) -> bool:
        if tenant in self._labelled:
            return True
        placements = self._placements
        if placements is None or placements.is_open or placements.last(tenant) is None:
            return False
        if len(self._labelled) < MAX_LABELLED:
            self._labelled.add(tenant)
        return tenant in self._labelled
