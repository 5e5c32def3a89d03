"""Client of the desk, as a web front end would use it: open a ticket, handle a chat.

The client is bound to a tenant, so no function takes one.
"""

from typing import Final

from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from orkestra import start_workflow, trace_attributes
from support_desk.models import HumanAnswer, Outcome, State, Status, Ticket
from support_desk.workflows import SupportTicket

TASK_QUEUE: Final = "support"

OpenTicket = WorkflowHandle[SupportTicket, Outcome]
"""Handle of an open ticket."""


async def open_ticket(client: Client, ticket: Ticket) -> OpenTicket:
    """Start the workflow of a ticket, with the customer as the user of its trace."""
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
    """Play a waiting customer: write again, or let a human answer.

    E-mails are not attended; the ticket is escalated if the assistant cannot answer.
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
        return  # the timer escalated the ticket first
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # the ticket has ended
            raise
