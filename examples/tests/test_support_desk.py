"""The support desk's own tests: the desk, pytest and the testing kit, and nothing else."""

import dataclasses

import pytest
from temporalio.client import WorkflowFailureError

from orkestra.testing import (
    Histories,
    OrkestraEnvironment,
    TenantActivityEnvironment,
    assert_isolated,
)
from support_desk.activities import draft_answer, lookup_customer, send_message
from support_desk.desk import TASK_QUEUE, first_reaction, open_ticket
from support_desk.models import Customer, Question, Resolution, State, Ticket
from support_desk.workflows import NotifyCustomer, SupportTicket

WORKFLOWS = (SupportTicket, NotifyCustomer)
ACTIVITIES = (lookup_customer, draft_answer, send_message)

INVOICE = Ticket(
    id="7",
    customer="ada@litware.test",
    subject="Invoice",
    body="Where can I download a copy of my invoice?",
)
VAGUE = dataclasses.replace(INVOICE, subject="Hm", body="It rattles.", answer_within_seconds=86_400)


async def test_a_question_of_the_knowledge_base_is_answered_in_one_trace(
    environment: OrkestraEnvironment, tenant: str
) -> None:
    client = await environment.client(tenant)
    async with environment.worker(*WORKFLOWS, activities=ACTIVITIES, task_queue=TASK_QUEUE):
        ticket = await open_ticket(client, INVOICE)
        outcome = await ticket.result()
        trace = await environment.trace_of(ticket)
    assert outcome.resolution is Resolution.ANSWERED_BY_ASSISTANT
    assert trace.tenant == tenant
    trace.is_one_tree()
    trace.span("activity:lookup_customer").succeeded().has_input("ada@litware.test")
    trace.span("workflow:NotifyCustomer").has_output(outcome.message_id)


async def test_an_unknown_customer_fails_the_ticket_and_the_trace_says_why(
    environment: OrkestraEnvironment, tenant: str
) -> None:
    client = await environment.client(tenant)
    async with environment.worker(*WORKFLOWS, activities=ACTIVITIES, task_queue=TASK_QUEUE):
        ticket = await open_ticket(client, dataclasses.replace(INVOICE, customer="x@y.invalid"))
        with pytest.raises(WorkflowFailureError):
            await ticket.result()
        trace = await environment.trace_of(ticket)
    trace.spans("activity:lookup_customer")[-1].has_error("no customer has the address")
    trace.span("workflow:SupportTicket").has_error()


async def test_a_ticket_that_nobody_answers_for_a_day_is_escalated(
    time_skipping: OrkestraEnvironment, tenant: str
) -> None:
    client = await time_skipping.client(tenant)
    async with time_skipping.worker(*WORKFLOWS, activities=ACTIVITIES, task_queue=TASK_QUEUE):
        ticket = await open_ticket(client, VAGUE)
        assert (await first_reaction(ticket)).state is State.WAITING_FOR_HUMAN
        assert (await ticket.result()).resolution is Resolution.ESCALATED


async def test_nothing_of_a_ticket_reaches_another_tenant(
    environment: OrkestraEnvironment,
) -> None:
    async with environment.worker(*WORKFLOWS, activities=ACTIVITIES) as queue:
        results = await assert_isolated(environment, SupportTicket.run, INVOICE, task_queue=queue)
    assert {outcome.ticket for outcome in results.values()} == {"7"}


async def test_yesterdays_tickets_still_replay(
    environment: OrkestraEnvironment, tenant: str, histories: Histories
) -> None:
    client = await environment.client(tenant)
    async with environment.worker(*WORKFLOWS, activities=ACTIVITIES, task_queue=TASK_QUEUE):
        ticket = await open_ticket(client, INVOICE)
        await ticket.result()
    await histories.replays("answered", ticket, *WORKFLOWS)


async def test_a_draft_is_in_the_name_of_the_tenants_brand() -> None:
    customer = Customer(name="Ada", email="ada@litware.test", plan="business")
    question = Question("Rate limit", ["We see 429 of the API: what is our quota?"], customer)
    drafts = {
        tenant: await TenantActivityEnvironment(tenant).run(draft_answer, question)
        for tenant in ("globex", "initech")
    }
    assert "Retry-After" in drafts["globex"].text
    assert drafts["initech"].text != drafts["globex"].text
