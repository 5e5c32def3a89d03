"""`read_trace()`: a workflow's trace from its history alone, without Langfuse."""

from temporalio.client import Client

from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.facts import TenantReader, facts_of
from orkestra.temporal.histories.reading import Execution, read_runs
from orkestra.temporal.histories.spans import episodes_of
from orkestra.temporal.histories.telling import Telling
from orkestra.temporal.plugin import plugin_of
from orkestra.tracing import CaptureLimits


async def read_trace(
    client: Client,
    workflow_id: str,
    *,
    run_id: str | None = None,
    children: bool = True,
    whole_chain: bool = False,
    limits: CaptureLimits | None = None,
) -> list[Episode]:
    """Tell what happened in a workflow, as spans.

    Args:
        client: A client with an `OrkestraPlugin`, of the workflow's tenant or of `ALL_TENANTS`. Its
            data converter reads arguments, results and failures.
        workflow_id: The workflow, running or closed.
        run_id: A run of it; None means the latest.
        children: Also the workflows that it started, and theirs.
        whole_chain: Also the runs before and after, by continue-as-new, retry or cron.
        limits: What of arguments and results to show; None shows nothing of them.

    Returns:
        What ended and what is going on, run by run, each run first.

    Raises:
        ExecutionNotFoundError: The server does not know the workflow or the run.
        ConfigurationError: The client has no `OrkestraPlugin`.
    """
    plugin = plugin_of(client)
    tenants = TenantReader(plugin.tenancy)
    limits = limits or CaptureLimits(input=False, output=False)
    found: list[Episode] = []
    async for run in read_runs(
        client, Execution(workflow_id, run_id), children=children, whole_chain=whole_chain
    ):
        telling = Telling(
            run,
            facts_of(run, tenants, ui_url=plugin.tracing_options.ui_url),
            tenants,
            client.data_converter,
            limits,
            plugin.tracing_options,
        )
        found += await episodes_of(telling)
    return found
