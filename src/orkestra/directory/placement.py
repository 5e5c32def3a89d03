"""Which namespace and queues are a tenant's, and which are another's: the rules, in one place.

Which tenants may be a label of a metric: strings chosen from outside never are.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orkestra.config import LangfuseProject
from orkestra.directory.cache import CachedTenantDirectory
from orkestra.directory.source import OpenTenantDirectory, TenantDirectory, TenantRecord
from orkestra.errors import (
    ConfigurationError,
    DirectoryUnavailableError,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
)

SYSTEM_QUEUES: Final = ("/_sys/", "temporal-sys-")
"""How the names begin of queues that the server keeps, and of single partitions of a queue."""

_REMEMBERED_TENANTS: Final = 10_000


@dataclass(frozen=True)
class Place:
    """A queue of a namespace, and whose it is.

    Attributes:
        namespace: Name of the namespace.
        task_queue: Name of the queue on the server.
        owners: The tenants that are placed there; empty where it is shared.
    """

    namespace: str
    task_queue: str
    owners: frozenset[str] = frozenset()


class Owners:
    """Whose the queues and namespaces are that are not shared.

    Args:
        records: The tenants with places of their own.
        shared_namespace: Namespace of tenants that have none of their own.
    """

    def __init__(self, records: Iterable[TenantRecord], shared_namespace: str | None) -> None:
        self.records: tuple[TenantRecord, ...] = tuple(records)
        queues = defaultdict[tuple[str | None, str], set[str]](set)
        namespaces = defaultdict[str, set[str]](set)
        for record in self.records:
            namespace = record.namespace or shared_namespace
            if record.namespace is not None and record.namespace != shared_namespace:
                namespaces[record.namespace].add(record.tenant)
            for own in record.task_queues.values():
                queues[namespace, own].add(record.tenant)
        self._queues: Mapping[tuple[str | None, str], set[str]] = queues
        self._namespaces: Mapping[str, set[str]] = namespaces

    def of(self, namespace: str | None, task_queue: str) -> frozenset[str]:
        """The tenants that a queue is for; empty where it is shared."""
        in_namespace = self.of_namespace(namespace)
        of_queue = frozenset(self._queues.get((namespace, task_queue), ()))
        return in_namespace & of_queue if in_namespace and of_queue else in_namespace or of_queue

    def of_namespace(self, namespace: str | None) -> frozenset[str]:
        """The tenants that a namespace is for; empty where it is shared."""
        return frozenset(self._namespaces.get(namespace or "", ()))


@dataclass(frozen=True)
class Placement:
    """Where one tenant's work belongs.

    Attributes:
        record: The tenant's entry in the directory.
        namespace: Its namespace; None where any will do.
        owners: Whose the other places are.
    """

    record: TenantRecord
    namespace: str | None
    owners: Owners

    def require_active(self) -> None:
        """Refuse a tenant that may not start work.

        Raises:
            TenantSuspendedError: It may not.
        """
        if not self.record.is_active:
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
        """The queue on the server that a queue's name means for this tenant.

        Args:
            name: As the code has it: mapped for the tenant, its own, or shared.
            namespace: Where the work runs; None means the tenant's namespace. In another one,
                where it was started before the tenant was moved, nothing is mapped.

        Raises:
            TenantMismatchError: The queue is other tenants', or the server's.
        """
        is_home = namespace is None or self.namespace in (None, namespace)
        if is_home and (own := self.record.task_queues.get(name)) is not None:
            return own
        is_foreign = self._is_foreign(namespace or self.namespace, name)
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
        own = self.record.task_queues.get(task_queue, task_queue)
        problem = None
        if self._is_foreign(namespace, task_queue):
            problem = f"queue {task_queue!r} of namespace {namespace!r} is not this tenant's"
        elif is_start and self.namespace not in (None, namespace):
            problem = f"the directory places this tenant in namespace {self.namespace!r}"
        elif (
            is_start and (own := self.record.task_queues.get(task_queue, task_queue)) != task_queue
        ):
            problem = f"the directory maps queue {task_queue!r} to {own!r} for this tenant"
        if problem is not None:
            raise TenantMismatchError(problem)

    def _is_foreign(self, namespace: str | None, task_queue: str) -> bool:
        owners = self.owners.of(namespace, task_queue)
        return bool(owners) and self.record.tenant not in owners


class Placements:
    """Asks the directory where tenants belong.

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
        self._owners = Owners((), self._shared_namespace)
        self._last: dict[str, Placement] = {}
        self._open = lru_cache(_REMEMBERED_TENANTS)(self._placement_if_open)

    async def of(self, tenant: str) -> Placement:
        """Where a tenant belongs.

        Raises:
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: The directory gave no answer.
        """
        if self.is_open:
            return self._open(tenant)
        record = await self._directory.find(tenant)
        if record is None:
            raise _unknown(tenant)
        owners = self._index(await self._directory.dedicated())
        if not self._agree(record, owners):
            self._directory.forget_dedicated()
            owners = self._index(await self._directory.dedicated())
        if not self._agree(record, owners):
            msg = (
                f"the tenant directory gives {tenant!r} a place of its own, but does not list it in"
                " dedicated(): list it, so that the place is kept from other tenants"
            )
            raise DirectoryUnavailableError(msg)
        return self._placement(record, owners)

    def remembered(self, tenant: str) -> Placement | None:
        """What `of()` would return without asking, or None where it would ask; for any thread.

        Raises:
            UnknownTenantError: The directory said just now that it does not know the tenant.
        """
        if self.is_open:
            return self._open(tenant)
        answer = self._directory.remembered(tenant)
        dedicated = self._directory.remembered_dedicated()
        if answer is None or dedicated is None:
            return None
        if answer.value is None:
            raise _unknown(tenant)
        owners = self._index(dedicated)
        agreed = self._agree(answer.value, owners)
        return self._placement(answer.value, owners) if agreed else None

    def last_known(self, tenant: str) -> Placement | None:
        """What `of()` returned last, however long ago, or None where it was not asked."""
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

    def last(self, tenant: str) -> Placement | None:
        """Where a tenant belonged when the directory was last asked, however long ago.

        For those who check what `of()` has just admitted, and may not ask.
        """
        if self.is_open:
            return self._open(tenant)
        record = self._directory.last(tenant)
        return None if record is None else self._placement(record, self._owners)

    async def served(self, task_queue: str, *, namespace: str) -> list[Place]:
        """Every place where work that the code starts on a queue ends up, the shared one first.

        Args:
            task_queue: The queue as the code has it.
            namespace: Namespace of tenants that have none of their own.

        Raises:
            DirectoryUnavailableError: The directory gave no answer.
        """
        owners = self._index(await self._directory.dedicated())
        places = {
            (record.namespace or namespace, record.task_queues.get(task_queue, task_queue))
            for record in owners.records
        } - {(namespace, task_queue)}
        return [
            Place(namespace, task_queue, owners.of(namespace, task_queue)),
            *(Place(*place, owners.of(*place)) for place in sorted(places)),
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
        owners = self._index(await self._directory.dedicated()).of(namespace, task_queue)
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

    def _placement_if_open(self, tenant: str) -> Placement:
        return Placement(TenantRecord(tenant), None, self._owners)

    def _index(self, dedicated: Collection[TenantRecord]) -> Owners:
        owners = self._owners
        if owners.records is not dedicated:
            owners = self._owners = Owners(dedicated, self._shared_namespace)
        return owners

    def _placement(self, record: TenantRecord, owners: Owners) -> Placement:
        if len(self._last) >= _REMEMBERED_TENANTS:
            self._last.clear()
        placement = Placement(record, record.namespace or self._shared_namespace, owners)
        self._last[record.tenant] = placement
        return placement

    def _agree(self, record: TenantRecord, owners: Owners) -> bool:
        namespace = record.namespace or self._shared_namespace
        places = [owners.of(namespace, own) for own in record.task_queues.values()]
        if record.namespace not in (None, self._shared_namespace):
            places.append(owners.of_namespace(record.namespace))
        return all(record.tenant in place for place in places)


def _unknown(tenant: str) -> UnknownTenantError:
    return UnknownTenantError(f"the directory does not know tenant {tenant!r}: add it, or mend it")


UNKNOWN: Final = "unknown"
MAX_LABELLED: Final = 1_000
"""Tenants that have a series of their own in one process; those that come later are unknown."""


class TenantLabels:
    """Gives the label of a tenant, where metrics are to have one.

    Args:
        placements: Knows the tenants; None means that there is no label.
    """

    def __init__(self, placements: Placements | None = None) -> None:
        self._placements = placements
        self._labelled: set[str] = set()

    def of(self, tenant: str | None) -> dict[str, str]:
        """The label, without asking the directory.

        Args:
            tenant: Whom something was counted for, if anybody.
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
