"""Three calls that a tenant's data must survive, made for real."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from temporalio.api.common.v1 import Header, Payload, WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra.cli.demo.stage import Stage
from orkestra.config import TenancySettings
from orkestra.errors import TenantError
from orkestra.temporal.client import create_temporal_client, start_workflow
from orkestra.tracing import trace_id_of
from support_desk.desk import TASK_QUEUE, OpenTicket, answer, first_reaction, open_ticket
from support_desk.models import Resolution, State, Ticket
from support_desk.workflows import SupportTicket

_OWNER: Final = "acme"
_INTRUDER: Final = "globex"
_TICKET: Final = Ticket(
    id="open",
    customer="dana.whitfield@fabrikam.example",
    subject="Something rattles",
    body="It rattles.",
    answer_within_seconds=120,
)

_DROPPED: Final = "Dropped signal"


@dataclass(frozen=True)
class Refusal:
    """What became of a call that must not work."""

    call: str
    refused: bool
    error: str
    """What the caller, or the worker's log, was told."""
    proof: str
    """What shows that nothing happened."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return asdict(self)


@dataclass(frozen=True)
class Attacks:
    """What became of the calls, and the trace of the ticket that they were aimed at."""

    refusals: tuple[Refusal, ...]
    trace_id: str


async def try_forbidden_calls(stage: Stage) -> Attacks:
    """Open a ticket of one tenant and attack it from outside; then answer it in order."""
    owner = await create_temporal_client(manager=stage.manager, tenant=_OWNER)
    handle = await open_ticket(owner, _TICKET)
    await first_reaction(handle)
    refusals = (
        await _start_without_tenant(stage),
        await _read_another_tenants_ticket(stage, handle),
        await _forge_a_signal(stage, handle),
    )
    run = handle.first_execution_run_id or ""
    return Attacks(refusals, trace_id_of(owner.namespace, handle.id, run))


async def _start_without_tenant(stage: Stage) -> Refusal:
    client = await create_temporal_client(manager=stage.manager)
    try:
        await start_workflow(client, SupportTicket.run, _TICKET, task_queue=TASK_QUEUE)
    except TenantError as error:
        return _refused("Start a ticket without a tenant", error, "nothing was sent")
    return _allowed("Start a ticket without a tenant")


async def _read_another_tenants_ticket(stage: Stage, theirs: OpenTicket) -> Refusal:
    call = f"{_INTRUDER} asks for the status of {_OWNER}'s ticket {theirs.id!r}"
    intruder = await create_temporal_client(manager=stage.manager, tenant=_INTRUDER)
    try:
        await intruder.get_workflow_handle_for(SupportTicket.run, theirs.id).query(
            SupportTicket.status
        )
    except TenantError as error:
        return _refused(call, error, "nothing was sent")
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return _refused(call, error, f"{_INTRUDER} cannot even name it")
        raise
    return _allowed(call)


async def _forge_a_signal(stage: Stage, handle: OpenTicket) -> Refusal:
    """Close the ticket past Orkestra, as a script with access to the server could."""
    call = f"A script signals 'close' to {handle.id!r} past Orkestra, as {_INTRUDER}"
    await _signal_raw(stage.server.address, handle)
    status = await handle.query(SupportTicket.status)
    if status.state is not State.WAITING_FOR_HUMAN:
        return _allowed(call)
    await answer(handle, "Tighten the screw.")
    outcome = await handle.result()
    log = stage.worker.log().splitlines()
    logged = next((line for line in log if _DROPPED in line and handle.id in line), "")
    return Refusal(
        call,
        refused=outcome.resolution is Resolution.ANSWERED_BY_HUMAN and bool(logged),
        error=f"in the worker's log: {_sentence(logged[logged.find(_DROPPED) :])}",
        proof="the server took it, the worker dropped it: the ticket stayed open until a human"
        " answered it",
    )


def _sentence(logged: str) -> str:
    """The message of a record alone, whether the log is text or JSON."""
    return logged.partition(" ({")[0].partition('"')[0]


async def _signal_raw(address: str, handle: OpenTicket) -> None:
    bare = await Client.connect(address)
    forged = Payload(metadata={"encoding": b"json/plain"}, data=f'"{_INTRUDER}"'.encode())
    await bare.workflow_service.signal_workflow_execution(
        SignalWorkflowExecutionRequest(
            namespace=bare.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            signal_name="close",
            header=Header(fields={TenancySettings().header: forged}),
        )
    )


def _refused(call: str, error: Exception, proof: str) -> Refusal:
    return Refusal(call, refused=True, error=f"{type(error).__name__}: {error}", proof=proof)


def _allowed(call: str) -> Refusal:
    return Refusal(call, refused=False, error="", proof="it was carried out")
