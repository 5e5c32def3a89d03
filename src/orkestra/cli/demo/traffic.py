"""The customers and humans at the desk: opens tickets, attends to chats, counts how they end."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError

from orkestra.cli.demo.stage import Stage
from orkestra.cli.demo.worker import DemoError
from orkestra.temporal.client import create_temporal_client
from support_desk.desk import OpenTicket, attend_chat, open_ticket
from support_desk.models import Resolution
from support_desk.tickets import FiledTicket, read_tickets

IN_FLIGHT: Final = 16
"""Tickets that are worked on at once, however many there are."""

_PATIENCE: Final = 120.0
"""Seconds that a ticket may take beyond the time that it waits for a human."""

_BUSINESS_FAILURES: Final = frozenset({"UnknownCustomer"})


@dataclass
class Tally:
    """How the tickets of one tenant, or of all, ended."""

    started: int = 0
    resolutions: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    seconds: list[float] = field(default_factory=list[float])

    @property
    def escalated(self) -> int:
        """Tickets that nobody answered in time."""
        return self.resolutions[Resolution.ESCALATED]

    @property
    def completed(self) -> int:
        """Tickets that were answered or closed."""
        return self.resolutions.total() - self.escalated

    @property
    def failed(self) -> int:
        """Tickets whose workflow failed."""
        return self.failures.total()

    @property
    def unexpected_failures(self) -> Mapping[str, int]:
        """Failures that the desk does not provide for, by their types."""
        return {k: n for k, n in self.failures.items() if k not in _BUSINESS_FAILURES}

    def percentile(self, share: float) -> float | None:
        """The time within which that share of the tickets ended, in seconds."""
        if not self.seconds:
            return None
        return sorted(self.seconds)[math.ceil(share * len(self.seconds)) - 1]

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "started": self.started,
            "completed": self.completed,
            "escalated": self.escalated,
            "failed": self.failed,
            "p50_seconds": self.percentile(0.5),
            "p95_seconds": self.percentile(0.95),
            "resolutions": dict(self.resolutions),
            "failures": dict(self.failures),
        }

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.started + other.started,
            self.resolutions + other.resolutions,
            self.failures + other.failures,
            self.seconds + other.seconds,
        )


class Traffic:
    """Works tickets off, a bounded number at a time."""

    def __init__(self, stage: Stage) -> None:
        self.tallies: dict[str, Tally] = {}
        self._stage = stage

    async def run(self, file: Path, *, on_end: Callable[[], None]) -> None:
        """Work off all tickets.

        Args:
            file: The tickets; they are read as they are needed.
            on_end: Called after each.

        Raises:
            DemoError: A ticket did not end.
        """
        tickets = read_tickets(file)
        desks = [asyncio.create_task(self._work_off(tickets, on_end)) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.gather(*desks)
        finally:
            for desk in desks:
                desk.cancel()
            await asyncio.gather(*desks, return_exceptions=True)

    async def _work_off(self, tickets: Iterator[FiledTicket], on_end: Callable[[], None]) -> None:
        for filed in tickets:
            patience = filed.ticket.answer_within_seconds + _PATIENCE
            try:
                async with asyncio.timeout(patience):
                    await self._serve(filed)
            except TimeoutError:
                which = f"ticket {filed.ticket.id!r} of {filed.tenant!r}"
                msg = f"{which} did not end within {patience:.0f} s: --workers-log may show why"
                raise DemoError(msg) from None
            on_end()

    async def _serve(self, filed: FiledTicket) -> None:
        tally = self.tallies.setdefault(filed.tenant, Tally())
        client = await create_temporal_client(manager=self._stage.manager, tenant=filed.tenant)
        opened = time.monotonic()
        ticket = await open_ticket(client, filed.ticket)
        tally.started += 1
        if filed.ticket.channel == "chat":
            await attend_chat(ticket, filed.follow_up)
        await _await_end(ticket, tally)
        tally.seconds.append(time.monotonic() - opened)


async def _await_end(ticket: OpenTicket, tally: Tally) -> None:
    try:
        outcome = await ticket.result()
    except WorkflowFailureError as error:
        tally.failures[_kind(error)] += 1
    else:
        tally.resolutions[outcome.resolution] += 1


def _kind(error: WorkflowFailureError) -> str:
    cause = error.cause
    if isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    return (isinstance(cause, ApplicationError) and cause.type) or type(cause).__name__
