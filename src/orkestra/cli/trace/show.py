"""`orkestra trace show`: a trace from history alone."""

import asyncio

from rich.console import Console
from temporalio.converter import DataConverter

from orkestra.cli.options import AsJson
from orkestra.cli.output import write_json
from orkestra.cli.trace.drawing import branches_of, draw
from orkestra.cli.trace.options import (
    Children,
    Converter,
    WholeChain,
    load_converter,
)
from orkestra.cli.workflows.acting import Actor, RunId, WorkflowId, with_actor
from orkestra.temporal.histories import Episode, read_trace


@with_actor
def show(
    workflow_id: WorkflowId,
    *,
    actor: Actor,
    run_id: RunId = None,
    chain: WholeChain = False,
    children: Children = True,
    converter: Converter = None,
    as_json: AsJson = False,
) -> None:
    """Draw a workflow's trace from its history, without Langfuse.

    Shows when each span began after the first, how long it took, attempts and failures; a signal
    has no duration. Of an activity the history has the last attempt only.

    Examples:
      orkestra trace show order-42 --tenant acme
      orkestra trace show acme:order-42 --all-tenants --chain --json
    """

    async def read(converter: DataConverter) -> list[Episode]:
        async with actor.client(data_converter=converter) as client:
            return await read_trace(
                client, workflow_id, run_id=run_id, children=children, whole_chain=chain
            )

    roots = branches_of(asyncio.run(read(load_converter(converter))))
    if as_json:
        traces = [{"trace_id": r.episode.span.trace_id, "root": r.as_dict()} for r in roots]
        write_json({"traces": traces})
    else:
        draw(Console(highlight=False), roots)
