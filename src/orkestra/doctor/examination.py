"""`diagnose()`: everything that has to be right before work can flow, in the order it is used."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final

from temporalio.client import Client

from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.directory import StaticTenantDirectory, TenantDirectory
from orkestra.doctor.fairness import examine_fairness
from orkestra.doctor.findings import Diagnosis, Finding
from orkestra.doctor.langfuse import examine_langfuse
from orkestra.doctor.network import examine_network
from orkestra.doctor.service import (
    examine_clocks,
    examine_namespace,
    examine_ownership,
    examine_queue,
)
from orkestra.errors import ConnectionFailedError
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.tenancy import ALL_TENANTS

_CALLS: Final = 4
"""The probe of fairness makes many calls: it may take as long as so many steps."""


async def diagnose(
    config: OrkestraConfig,
    *,
    directory: TenantDirectory | None = None,
    task_queues: Sequence[str] = (),
    timeout: timedelta = timedelta(seconds=5),
    probe_fairness: bool = False,
) -> Diagnosis:
    """Look at everything that workflows need: network, server, namespaces, workers, Langfuse.

    What is wrong is no error: it stands in the diagnosis, with what to do about it.

    Args:
        config: What would be used.
        directory: Knows the tenants; None means those of the configuration.
        task_queues: Queues of the configured namespace that workers should poll; those that the
            directory gives to single tenants are looked at, too.
        timeout: How long each step may take.
        probe_fairness: Also find out whether the server is fair, by starting 132 activities on a
            queue of the doctor's own; they end within a minute.

    Returns:
        What was found.

    Example:
        ```python
        diagnosis = await diagnose(OrkestraConfig.load(), task_queues=["orders"])
        for problem in diagnosis.problems:
            print(f"{problem.name}: {problem.detail}; {problem.mend}")
        ```
    """
    found = await examine_network(config.temporal, timeout=timeout)
    if all(finding.ok for finding in found):
        found += [
            finding
            async for finding in _Service(config, directory, timeout).examine(
                task_queues, probe_fairness=probe_fairness
            )
        ]
    found += await examine_langfuse(config, timeout=timeout)
    return Diagnosis(tuple(found))


class _Service:
    """One look at the Temporal service."""

    def __init__(
        self, config: OrkestraConfig, directory: TenantDirectory | None, timeout: timedelta
    ) -> None:
        self._config = config
        self._directory = directory or StaticTenantDirectory.from_settings(config.tenants)
        self._timeout = timeout

    async def examine(
        self, task_queues: Sequence[str], *, probe_fairness: bool
    ) -> AsyncIterator[Finding]:
        temporal = self._config.temporal.model_copy(
            update={"connect_deadline": self._timeout, "verify_namespace": False}
        )
        untraced = {"temporal": temporal, "langfuse": LangfuseSettings()}
        manager = TemporalConnectionManager(
            self._config.model_copy(update=untraced), directory=self._directory
        )
        async with manager:
            try:
                client = await manager.get_client(namespace=temporal.namespace, tenant=ALL_TENANTS)
            except ConnectionFailedError as error:
                yield Finding("connection", ok=False, detail=str(error))
                return
            async for finding in self._places(manager, client, task_queues):
                yield finding
            yield await examine_clocks(client, timeout=self._timeout)
            async for finding in self._tenancy(client, probe_fairness=probe_fairness):
                yield finding

    async def _places(
        self, manager: TemporalConnectionManager, client: Client, task_queues: Sequence[str]
    ) -> AsyncIterator[Finding]:
        """The namespaces, and the queues that somebody should poll."""
        shared = client.namespace
        dedicated = await self._directory.dedicated()
        namespaces = {record.namespace or shared for record in dedicated}
        for namespace in [shared, *sorted(namespaces - {shared})]:
            there = await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)
            for finding in await examine_namespace(
                there, self._config, timeout=self._timeout, is_first=namespace == shared
            ):
                yield finding
        wanted = [(shared, queue) for queue in task_queues]
        for record in dedicated:
            wanted += [(record.namespace or shared, own) for own in record.task_queues.values()]
        for namespace, queue in dict.fromkeys(wanted):
            there = await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)
            for finding in await examine_queue(there, queue, timeout=self._timeout):
                yield finding

    async def _tenancy(self, client: Client, *, probe_fairness: bool) -> AsyncIterator[Finding]:
        tenancy = self._config.tenancy
        if tenancy.mode == "off":
            return
        if tenancy.fairness and probe_fairness:
            yield await examine_fairness(client, timeout=_CALLS * self._timeout)
        elif tenancy.fairness:
            detail = "the server does not say whether it is fair: --probe-fairness finds out"
            yield Finding("fairness", ok=None, detail=detail)
        if tenancy.workflow_ids == "scoped":
            yield await examine_ownership(client, timeout=self._timeout)
