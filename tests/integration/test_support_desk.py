"""The example's workflow, call by call, for tenants that it has never heard of."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from orkestra import OrkestraConfig, TemporalConnectionManager, TemporalSettings, create_worker
from orkestra.devserver import DevServer
from support_desk.desk import TASK_QUEUE, OpenTicket, answer, first_reaction, open_ticket
from support_desk.models import HumanAnswer, Resolution, State, Ticket
from support_desk.workflows import SupportTicket
from tests.support.names import Fresh


@pytest.fixture
async def manager(dev_server: DevServer) -> AsyncGenerator[TemporalConnectionManager]:
    config = OrkestraConfig(temporal=TemporalSettings(address=dev_server.address))
    async with TemporalConnectionManager(config) as manager:
        worker = await create_worker(
            manager=manager, task_queue=TASK_QUEUE, workflows_path="support_desk"
        )
        async with worker:
            yield manager


@pytest.fixture
async def client(manager: TemporalConnectionManager, fresh: Fresh) -> Client:
    return await manager.get_client(tenant=fresh.tenant())


def vague(**values: Any) -> Ticket:
    known = {"id": "1", "customer": "ada@litware.test", "subject": "Hm", "body": "It rattles."}
    return Ticket(**{**known, "answer_within_seconds": 60, **values})


async def waiting(client: Client, **values: Any) -> OpenTicket:
    ticket = await open_ticket(client, vague(**values))
    assert (await first_reaction(ticket)).state is State.WAITING_FOR_HUMAN
    return ticket


async def test_the_assistant_answers_what_it_knows(client: Client) -> None:
    ticket = await open_ticket(client, vague(body="Where can I download a copy of my invoice?"))
    status = await first_reaction(ticket)
    assert status.draft is not None
    outcome = await ticket.result()
    assert outcome.resolution is Resolution.ANSWERED_BY_ASSISTANT
    assert outcome.answer == status.draft.text
    assert outcome.message_id


async def test_a_reply_of_the_customer_makes_the_assistant_try_again(client: Client) -> None:
    ticket = await waiting(client)
    await ticket.signal(SupportTicket.customer_reply, "Sorry: I forgot my password, no reset link.")
    assert (await ticket.result()).resolution is Resolution.ANSWERED_BY_ASSISTANT


async def test_a_reply_that_does_not_help_leaves_the_ticket_waiting(client: Client) -> None:
    ticket = await waiting(client)
    await ticket.signal(SupportTicket.customer_reply, "Hello?")
    assert (await ticket.query(SupportTicket.status)).messages == ["It rattles.", "Hello?"]
    await answer(ticket, "Tighten the screw.")
    outcome = await ticket.result()
    assert outcome.resolution is Resolution.ANSWERED_BY_HUMAN
    assert outcome.answer == "Tighten the screw."


async def test_the_customer_can_close_the_ticket(client: Client) -> None:
    ticket = await waiting(client)
    await ticket.signal(SupportTicket.close)
    assert (await ticket.result()).resolution is Resolution.CLOSED_BY_CUSTOMER


async def test_a_ticket_that_nobody_answers_is_escalated_by_the_timer(client: Client) -> None:
    ticket = await open_ticket(client, vague(answer_within_seconds=0.2))
    assert (await ticket.result()).resolution is Resolution.ESCALATED


async def test_an_answer_without_a_text_is_refused_and_the_ticket_goes_on(client: Client) -> None:
    ticket = await waiting(client)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await answer(ticket, " ")
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "EmptyAnswer"
    assert (await ticket.query(SupportTicket.status)).state is State.WAITING_FOR_HUMAN
    await ticket.terminate()


async def test_a_ticket_that_does_not_wait_takes_no_answer(client: Client) -> None:
    start = WithStartWorkflowOperation(
        SupportTicket.run,
        vague(),
        id="ticket-1",
        task_queue=TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
    )
    too_early = HumanAnswer(agent="Robin", text="Tighten the screw.")
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await client.execute_update_with_start_workflow(
            SupportTicket.answer, too_early, start_workflow_operation=start
        )
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "NotWaiting"
    ticket = await start.workflow_handle()
    assert (await first_reaction(ticket)).state is State.WAITING_FOR_HUMAN
    await ticket.terminate()


async def test_a_ticket_of_nobodys_customer_fails_without_a_retry(client: Client) -> None:
    ticket = await open_ticket(client, vague(customer="nobody@nowhere.invalid"))
    with pytest.raises(WorkflowFailureError) as failed:
        await ticket.result()
    assert isinstance(failed.value.cause, ActivityError)
    assert isinstance(failed.value.cause.cause, ApplicationError)
    assert failed.value.cause.cause.type == "UnknownCustomer"


async def test_two_tenants_with_the_same_ticket_do_not_meet(
    manager: TemporalConnectionManager, fresh: Fresh
) -> None:
    tenants = [fresh.tenant("acme"), fresh.tenant("beta")]
    ours, theirs = [
        await waiting(await manager.get_client(tenant=tenant), id="7") for tenant in tenants
    ]
    await ours.signal(SupportTicket.close)
    assert (await ours.result()).resolution is Resolution.CLOSED_BY_CUSTOMER
    assert (await theirs.query(SupportTicket.status)).state is State.WAITING_FOR_HUMAN
    await answer(theirs, "Tighten the screw.")
    assert (await theirs.result()).resolution is Resolution.ANSWERED_BY_HUMAN
