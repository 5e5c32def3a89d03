"""Data of the desk: plain dataclasses, which Temporal's default converter can serialize.

None of them has a tenant. It travels beside the arguments, and code that needs it asks
`orkestra.current_tenant()`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Channel = Literal["chat", "email"]


@dataclass(frozen=True)
class Ticket:
    """A customer's question."""

    id: str
    customer: str
    """The customer's e-mail address."""
    subject: str
    body: str
    channel: Channel = "email"
    answer_within_seconds: float = 3.0
    """Seconds that a ticket waits for a human before it is escalated; short for the demo."""


@dataclass(frozen=True)
class Customer:
    name: str
    email: str
    plan: Literal["free", "business"]


@dataclass(frozen=True)
class Question:
    """Input of the assistant."""

    subject: str
    messages: list[str]
    """Messages of the customer, in order."""
    customer: Customer


@dataclass(frozen=True)
class Draft:
    text: str
    confidence: float
    """Confidence that the text answers the question, 0 to 1."""


@dataclass(frozen=True)
class HumanAnswer:
    agent: str
    text: str


@dataclass(frozen=True)
class Message:
    """Last message to the customer."""

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
    """Current state of a ticket."""

    state: State = State.OPEN
    draft: Draft | None = None
    messages: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Outcome:
    """Result of a ticket."""

    ticket: str
    resolution: Resolution
    confidence: float
    """Confidence of the assistant's last draft."""
    answer: str
    message_id: str
    """ID of the message to the customer."""
