"""`diagnose()`: check everything that workflows need, in the order in which it is used."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from temporalio.client import Client

from orkestra.config import LangfuseSettings, OrkestraConfig, TenancySettings
from orkestra.directory import StaticTenantDirectory, TenantDirectory
from orkestra.doctor.checks import (
    Diagnosis,
    Finding,
    check_clocks,
    check_fairness,
    check_langfuse,
    check_namespace,
    check_network,
    check_ownership,
    check_queue,
)
from orkestra.errors import ConnectionFailedError
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.tenancy import ALL_TENANTS

_FAIRNESS_STEPS: Final = 4  # the fairness probe makes many calls, and may take as many timeouts


async def diagnose(
    config: OrkestraConfig,
    *,
    directory: TenantDirectory | None = None,
    task_queues: Sequence[str] = (),
    timeout: timedelta = timedelta(seconds=5),
    probe_fairness: bool = False,
) -> Diagnosis:
    """Check everything that workflows need: network, server, namespaces, workers, Langfuse.

    Problems do not raise: they are findings, each with its fix.

    Args:
        config: The configuration to check.
        directory: Directory of the tenants; None uses the tenants of the configuration.
        task_queues: Queues of the configured namespace that workers should poll. The queues that
            the directory gives to single tenants are checked too.
        timeout: Time limit of each step.
        probe_fairness: Also test whether the server is fair, by starting 132 activities on a queue
            of the doctor's own; they end within a minute.

    Returns:
        All findings.

    Example:
        ```python
        diagnosis = await diagnose(OrkestraConfig.load(), task_queues=["orders"])
        for problem in diagnosis.problems:
            print(f"{problem.name}: {problem.detail}; {problem.fix}")
        ```
    """
    found = await check_network(config.temporal, timeout=timeout)
    if all(finding.ok for finding in found):
        tenants = directory or StaticTenantDirectory.from_settings(config.tenants)
        found += await _check_service(
            config, tenants, task_queues, timeout, probe_fairness=probe_fairness
        )
    # Without a connection, too: tracing may be the second problem.
    found += await check_langfuse(config, timeout=timeout)
    return Diagnosis(tuple(found))


async def _check_service(
    config: OrkestraConfig,
    directory: TenantDirectory,
    task_queues: Sequence[str],
    timeout: timedelta,
    *,
    probe_fairness: bool,
) -> list[Finding]:
    temporal = config.temporal.model_copy(
        # A missing namespace is a finding of its own, not a failed connection.
        update={"connect_deadline": timeout, "verify_namespace": False}
    )
    untraced = {"temporal": temporal, "langfuse": LangfuseSettings()}
    async with TemporalConnectionManager(
        config.model_copy(update=untraced), directory=directory
    ) as manager:
        try:
            client = await manager.get_client(namespace=temporal.namespace, tenant=ALL_TENANTS)
        except ConnectionFailedError as error:
            return [Finding("connection", ok=False, detail=str(error))]
        found = await _check_places(
            manager, client.namespace, config, directory, task_queues, timeout
        )
        found.append(await check_clocks(client, timeout=timeout))
        found += await _check_tenancy(
            client, config.tenancy, timeout, probe_fairness=probe_fairness
        )
        return found


async def _check_places(
    manager: TemporalConnectionManager,
    shared: str,
    config: OrkestraConfig,
    directory: TenantDirectory,
    task_queues: Sequence[str],
    timeout: timedelta,
) -> list[Finding]:
    """Check the shared namespace, those of single tenants, and all queues that need workers."""
    found: list[Finding] = []
    dedicated = await directory.dedicated()
    own = {record.namespace or shared for record in dedicated}
    for namespace in [shared, *sorted(own - {shared})]:
        client = await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)
        found += await check_namespace(
            client, config.tenancy, timeout=timeout, is_first=namespace == shared
        )
    wanted = [(shared, queue) for queue in task_queues]
    for record in dedicated:
        wanted += [(record.namespace or shared, queue) for queue in record.task_queues.values()]
    # Each once, in order: tenants can share a queue.
    for namespace, queue in dict.fromkeys(wanted):
        client = await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)
        found += await check_queue(client, queue, timeout=timeout)
    return found


async def _check_tenancy(
    client: Client, tenancy: TenancySettings, timeout: timedelta, *, probe_fairness: bool
) -> list[Finding]:
    if tenancy.mode == "off":
        return []
    found: list[Finding] = []
    if tenancy.fairness and probe_fairness:
        found.append(await check_fairness(client, timeout=_FAIRNESS_STEPS * timeout))
    elif tenancy.fairness:
        detail = "the server does not report whether it is fair: test it with --probe-fairness"
        found.append(Finding("fairness", ok=None, detail=detail))
    if tenancy.workflow_ids == "scoped":
        found.append(await check_ownership(client, timeout=timeout))
    return found
