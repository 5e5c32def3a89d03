"""What a plugin shares with all that are made from it, and the sink that their spans go to."""

from dataclasses import dataclass, field
from typing import Self

from orkestra.config import LangfuseProject, OrkestraConfig
from orkestra.directory import (
    Placements,
    StaticTenantDirectory,
    TenantDirectory,
    TenantLabels,
)
from orkestra.temporal.guard import OwnerMemory
from orkestra.temporal.interceptors.tracing import TracingOptions
from orkestra.tracing import TraceSink


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Shared:
    """What plugins of one origin share, whatever they are bound or limited to.

    Attributes:
        config: The configuration, credentials included.
        placements: What the directory says of every tenant.
        labels: What is counted under.
        sink: Where spans go; None where tracing is off.
        owners: What has been found out of whose executions are.
    """

    config: OrkestraConfig
    placements: Placements
    labels: TenantLabels
    sink: TraceSink | None
    owners: OwnerMemory = field(default_factory=OwnerMemory)

    @classmethod
    def of(cls, config: OrkestraConfig, directory: TenantDirectory | None) -> Self:
        """Prepare it; nothing is opened yet.

        Args:
            config: The configuration.
            directory: Knows the tenants; None means those of the configuration.

        Raises:
            ConfigurationError: The tenants of the configuration are malformed or contradict.
        """
        if directory is None and config.tenants:
            directory = StaticTenantDirectory.from_settings(config.tenants)
        placements = Placements(directory, shared_namespace=config.temporal.namespace)
        is_labelled = config.tenancy.metrics_tenant_label
        return cls(
            config=config,
            placements=placements,
            labels=TenantLabels(placements if is_labelled else None),
            sink=_sink(config, placements),
        )

    @property
    def has_tenancy(self) -> bool:
        """Whether calls carry a tenant at all."""
        return self.config.tenancy.mode != "off"

    @property
    def tracing_options(self) -> TracingOptions:
        """Which spans are made of workflows."""
        return TracingOptions(
            ui_url=self.config.temporal.ui_url,
            queries=self.config.langfuse.queries,
            timer_threshold=self.config.langfuse.timer_threshold or None,
        )


def _sink(config: OrkestraConfig, placements: Placements) -> TraceSink | None:
    settings = config.langfuse
    has_projects = any(tenant.langfuse is not None for tenant in config.tenants.values())
    if not (settings.is_on or (has_projects and settings.enabled is not False)):
        return None
    from orkestra.langfuse import LangfuseProjects  # noqa: PLC0415 - off means not imported

    def project_of(tenant: str) -> LangfuseProject | None:
        placement = placements.last_known(tenant)
        if placement is None:
            raise LookupError(tenant)
        return placement.record.langfuse

    return LangfuseProjects(settings, project_of, placements.of)
