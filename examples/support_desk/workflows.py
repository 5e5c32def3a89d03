"""The workflow of a ticket: look up, draft, wait for a human if needed, notify the customer."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from support_desk.activities import draft_answer, lookup_customer, send_message
    from support_desk.models import (
        Customer,
        Draft,
        HumanAnswer,
        Message,
        Outcome,
        Question,
        Resolution,
        State,
        Status,
        Ticket,
    )

CONFIDENT = 0.7
"""Drafts with less confidence wait for a human."""

ESCALATION = "We have passed your question to a specialist, who will write to you today."
CLOSING = "You told us that this is settled, so we have closed your ticket."

_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5)


@workflow.defn
class SupportTicket:
    """One ticket, from its arrival to the notification of the customer."""

    def __init__(self) -> None:
        self._state = State.OPEN
        self._draft: Draft | None = None
        self._messages: list[str] = []
        self._human: HumanAnswer | None = None
        self._closed = False

    @workflow.run
    async def run(self, ticket: Ticket) -> Outcome:
        self._messages.insert(0, ticket.body)
        try:
            customer = await workflow.execute_activity(
                lookup_customer,
                ticket.customer,
                start_to_close_timeout=timedelta(seconds=10),
                retry_policy=_RETRY,
            )
            resolution, answer = await self._resolve(ticket, customer)
            message_id = await workflow.execute_child_workflow(
                NotifyCustomer.run,
                Message(to=customer, subject=ticket.subject, text=answer),
                id=f"{workflow.info().workflow_id}-notify",
            )
        finally:
            self._state = State.DONE
            await workflow.wait_condition(workflow.all_handlers_finished)
        confidence = self._draft.confidence if self._draft else 0.0
        return Outcome(ticket.id, resolution, confidence, answer, message_id)

    async def _resolve(self, ticket: Ticket, customer: Customer) -> tuple[Resolution, str]:
        deadline = workflow.now() + timedelta(seconds=ticket.answer_within_seconds)
        while True:
            known = len(self._messages)
            draft = await self._ask_assistant(ticket, customer)
            if self._human is None and not self._closed and draft.confidence >= CONFIDENT:
                return Resolution.ANSWERED_BY_ASSISTANT, draft.text
            self._state = State.WAITING_FOR_HUMAN
            await self._wait_for_news(known, until=deadline - workflow.now())
            if self._human is not None:
                return Resolution.ANSWERED_BY_HUMAN, self._human.text
            if self._closed:
                return Resolution.CLOSED_BY_CUSTOMER, CLOSING
            if len(self._messages) == known:
                return Resolution.ESCALATED, ESCALATION

    async def _ask_assistant(self, ticket: Ticket, customer: Customer) -> Draft:
        self._draft = await workflow.execute_activity(
            draft_answer,
            Question(ticket.subject, [*self._messages], customer),
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=_RETRY,
        )
        return self._draft

    async def _wait_for_news(self, known: int, *, until: timedelta) -> None:
        try:
            await workflow.wait_condition(
                lambda: self._human is not None or self._closed or len(self._messages) > known,
                timeout=max(until, timedelta()),
            )
        except TimeoutError:
            workflow.logger.info("nobody answered in time")

    @workflow.query
    def status(self) -> Status:
        return Status(self._state, self._draft, self._messages)

    @workflow.update
    async def first_reaction(self) -> Status:
        """Wait until there is an answer or a human is needed, as a chat window does."""
        await workflow.wait_condition(lambda: self._state is not State.OPEN)
        return self.status()

    @workflow.update
    def answer(self, answer: HumanAnswer) -> Status:
        self._human = answer
        return self.status()

    @answer.validator
    def _only_where_one_is_needed(self, answer: HumanAnswer) -> None:
        if not answer.text.strip():
            raise ApplicationError("an answer needs a text", type="EmptyAnswer")
        if self._state is not State.WAITING_FOR_HUMAN or self._human is not None:
            raise ApplicationError("this ticket does not wait for a human", type="NotWaiting")

    @workflow.signal
    def customer_reply(self, text: str) -> None:
        """Add a message of the customer, and let the assistant draft again."""
        self._messages.append(text)

    @workflow.signal
    def close(self) -> None:
        """Close the ticket without an answer."""
        self._closed = True


@workflow.defn
class NotifyCustomer:
    """Notify the customer in a child workflow, so that it can be retried separately."""

    @workflow.run
    async def run(self, message: Message) -> str:
        return await workflow.execute_activity(
            send_message,
            message,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=_RETRY,
        )
