"""The desk as a web front end sees it: open a ticket, attend to a chat.

The client that comes in is bound to a tenant, so nothing here names one.
"""

from typing import Final

from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from orkestra import start_workflow, trace_attributes
from support_desk.models import HumanAnswer, Outcome, State, Status, Ticket
from support_desk.workflows import SupportTicket

TASK_QUEUE: Final = "support"

OpenTicket = WorkflowHandle[SupportTicket, Outcome]
"""A ticket that somebody works on: the SDK's own handle."""


async def open_ticket(client: Client, ticket: Ticket) -> OpenTicket:
    """Start the ticket's workflow; Langfuse learns which customer it is for."""
    with trace_attributes(user_id=ticket.customer[:200], tags=[ticket.channel]):
        return await start_workflow(
            client,
            SupportTicket.run,
            ticket,
            task_queue=TASK_QUEUE,
            workflow_id=f"ticket-{ticket.id}",
        )


async def first_reaction(ticket: OpenTicket) -> Status:
    """Wait until there is an answer or a human is needed."""
    return await ticket.execute_update(SupportTicket.first_reaction)  # pyright: ignore[reportUnknownMemberType]


async def answer(ticket: OpenTicket, text: str) -> None:
    """Answer as a human."""
    message = HumanAnswer(agent="Robin", text=text)
    await ticket.execute_update(SupportTicket.answer, message)  # pyright: ignore[reportUnknownMemberType]


async def attend_chat(ticket: OpenTicket, follow_up: str | None) -> None:
    """Sit with a customer who waits at the other end: write on, or let a colleague answer.

    Nobody sits with those who wrote an e-mail; if the assistant cannot help, they are escalated.
    """
    try:
        status = await first_reaction(ticket)
        if status.state is not State.WAITING_FOR_HUMAN:
            return
        if follow_up is not None:
            await ticket.signal(SupportTicket.customer_reply, follow_up)
        else:
            await answer(ticket, "I have looked into it myself: we will sort it out.")
    except WorkflowUpdateFailedError:
        return  # the deadline was faster
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # the ticket has ended
            raise
