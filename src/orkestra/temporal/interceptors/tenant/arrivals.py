"""What arrives at a worker besides workflows: whether its tenant belongs here."""

from collections.abc import Collection
from dataclasses import dataclass

from orkestra.directory import Placements
from orkestra.errors import (
    TENANT_MISMATCH,
    TENANT_SUSPENDED,
    TENANT_UNDECIDED,
    TENANT_UNKNOWN,
    DirectoryUnavailableError,
    TenantSuspendedError,
    UnknownTenantError,
)
from orkestra.temporal.interceptors.tenant.admission import misplaced
from orkestra.temporal.interceptors.tenant.verdicts import Verdict


@dataclass(frozen=True)
class Arrivals:
    """Asks the directory about activities and Nexus operations.

    Attributes:
        placements: Where tenants belong.
        tenants: The tenants that the worker serves; None means all.
    """

    placements: Placements
    tenants: Collection[str] | None = None

    def is_misplaced(self, tenant: str | None) -> bool:
        """Whether the work is of a tenant that this worker does not serve."""
        return self.tenants is not None and tenant not in self.tenants

    async def verdict(
        self, tenant: str | None, *, namespace: str, task_queue: str, is_start: bool
    ) -> Verdict | None:
        """Why the work is not done here, or None where it is.

        Args:
            tenant: Whose work it is, if anyone's.
            namespace: Namespace of the worker.
            task_queue: Queue of the worker.
            is_start: Whether the work is not part of something older, as a workflow.
        """
        if self.is_misplaced(tenant):
            return Verdict(TENANT_UNDECIDED, misplaced(task_queue, tenant))
        if tenant is None or self.placements.is_open:
            return None
        try:
            placement = await self.placements.of(tenant)
            if is_start:
                placement.require_active()
        except DirectoryUnavailableError as error:
            return Verdict(TENANT_UNDECIDED, str(error))
        except UnknownTenantError as error:
            return Verdict(TENANT_UNKNOWN, str(error))
        except TenantSuspendedError as error:
            return Verdict(TENANT_SUSPENDED, str(error))
        problem = placement.problem(namespace, task_queue, is_start=is_start)
        return None if problem is None else Verdict(TENANT_MISMATCH, problem)
