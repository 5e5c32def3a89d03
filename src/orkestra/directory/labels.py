"""Which tenants may be a label of a metric: strings chosen from outside never are."""

from typing import Final

from orkestra.directory.placement import Placements

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
