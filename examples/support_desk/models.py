"""What enters and leaves the desk: plain dataclasses that Temporal's own converter carries.

None of them has a tenant. It travels beside the arguments, and code that needs it asks
`orkestra.current_tenant()`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Channel = Literal["chat", "email"]


@dataclass(frozen=True)
class Ticket:
    """A customer's question, as it came in."""

    id: str
    customer: str
    """The customer's e-mail address."""
    subject: str
    body: str
    channel: Channel = "email"
    answer_within_seconds: float = 3.0
    """How long a ticket waits for a human before it is escalated; short, to be watched."""


@dataclass(frozen=True)
class Customer:
    name: str
    email: str
    plan: Literal["free", "business"]


@dataclass(frozen=True)
class Question:
    """All that the assistant is told."""

    subject: str
    messages: list[str]
    """What the customer wrote, in order."""
    customer: Customer


@dataclass(frozen=True)
class Draft:
    text: str
    confidence: float
    """0 to 1: how sure the assistant is that the text answers the question."""


@dataclass(frozen=True)
class HumanAnswer:
    agent: str
    text: str


@dataclass(frozen=True)
class Message:
    """What is sent to the customer at the end."""

    to: Customer
    subject: str
    text: str


class State(StrEnum):
    OPEN = "open"
    WAITING_FOR_HUMAN = "waiting_for_human"
    DONE = "done"


class Resolution(StrEnum):
    ANSWERED_BY_ASSISTANT = "answered_by_assistant"
    ANSWERED_BY_HUMAN = "answered_by_human"
    CLOSED_BY_CUSTOMER = "closed_by_customer"
    ESCALATED = "escalated"


@dataclass(frozen=True)
class Status:
    """What one sees of a ticket while it is worked on."""

    state: State = State.OPEN
    draft: Draft | None = None
    messages: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Outcome:
    """How a ticket ended."""

    ticket: str
    resolution: Resolution
    confidence: float
    """The assistant's, in its last draft."""
    answer: str
    message_id: str
    """The message that told the customer."""
