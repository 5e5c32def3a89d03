"""What a directory says of one tenant."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Final

from orkestra.config import LangfuseProject
from orkestra.errors import ConfigurationError
from orkestra.tenancy import check_tenant_id

NORMAL_PRIORITY: Final = 3
"""The server's default priority key; smaller numbers go first."""

_LEAST_URGENT: Final = 5
_WEIGHTS: Final = (0.001, 1000.0)


class TenantStatus(StrEnum):
    """Whether a tenant may start work."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Starts nothing; what runs can still be signalled, cancelled and read."""


@dataclass(frozen=True)
class TenantRecord:
    """One tenant's entry.

    Attributes:
        tenant: The tenant's ID.
        status: Whether it may start work.
        namespace: A namespace of its own; None means the shared one, `temporal.namespace`.
        task_queues: Queues of its own, by the name that the code uses. A queue that is not named
            here is shared, unless it is another tenant's own.
        fairness_weight: Its share of a queue beside the others', 0.001 to 1000; None means 1.
        most_urgent_priority: The smallest priority key that it may use, 1 to 5; 3 is normal.
        encryption_key: Reference of the key that encrypts its payloads.
        langfuse: A Langfuse project of its own; None means the shared one.

    Raises:
        InvalidTenantError: The tenant is malformed.
        ConfigurationError: A value is out of range, or a queue of its own is mapped once more.
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
                raise self._error(f"task queue {own!r} is its own and mapped to another: drop one")

    @property
    def is_active(self) -> bool:
        """Whether the tenant may start work."""
        return self.status is TenantStatus.ACTIVE

    @property
    def is_dedicated(self) -> bool:
        """Whether the tenant has a queue or a namespace of its own."""
        return self.namespace is not None or bool(self.task_queues)

    def _error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"tenant {self.tenant!r} of the directory: {problem}")
