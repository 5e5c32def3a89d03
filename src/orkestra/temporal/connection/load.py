"""How many calls wait for a service that answers none, and the limit to that.

What connections count, for metrics and for people.
"""

import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final, Self

from google.protobuf.message import Message
from temporalio.service import RPCError, RPCStatusCode


class ConnectionState(StrEnum):
    """What is known of a connection without asking the server."""

    UNOPENED = "unopened"
    """Nobody has needed it yet, or opening it has failed."""

    OPEN = "open"
    """Calls are answered, or there are none."""

    SILENT = "silent"
    """Calls wait, and none was answered for half of `temporal.call_retry_deadline`."""

    CLOSED = "closed"
    """It was closed."""


@dataclass(slots=True)
class ConnectionCounters:
    """Sums over all connections that share them; they only grow.

    Attributes:
        attempts: Attempts to open a connection, rotations included.
        failed_attempts: Those that failed.
        calls: Calls that were sent, without long polls.
        failed_calls: Calls that the service left without an answer, after the SDK's retries.
        refused_calls: Calls that were not sent, because too many waited.
        rotations: Changed credentials that were taken up.
        failed_rotations: Changed credentials that could not be used; the old ones stay.
    """

    attempts: int = 0
    failed_attempts: int = 0
    calls: int = 0
    failed_calls: int = 0
    refused_calls: int = 0
    rotations: int = 0
    failed_rotations: int = 0


@dataclass(frozen=True, kw_only=True)
class ConnectionStatistics:
    """A manager's connections at one moment; see `ConnectionCounters` for the sums.

    Attributes:
        state: The worst of all shared connections.
        connections: How many are open, dedicated ones included.
        calls_in_flight: Calls under way, long polls included.
        calls_waiting: Calls under way since the service has last answered, without long polls.
        workers: Workers that run on the connections.
    """

    state: ConnectionState
    connections: int
    calls_in_flight: int
    calls_waiting: int
    workers: int
    attempts: int
    failed_attempts: int
    calls: int
    failed_calls: int
    refused_calls: int
    rotations: int
    failed_rotations: int

    @classmethod
    def of(
        cls,
        counters: ConnectionCounters,
        *,
        state: ConnectionState,
        connections: int,
        calls_in_flight: int,
        calls_waiting: int,
        workers: int,
    ) -> Self:
        """Freeze the counters together with what holds at the moment."""
        return cls(
            state=state,
            connections=connections,
            calls_in_flight=calls_in_flight,
            calls_waiting=calls_waiting,
            workers=workers,
            **asdict(counters),
        )


NO_ANSWER: Final = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.UNKNOWN,
    }
)
"""What the SDK makes of trouble on the way; the service itself may say it, too."""

_READING_POLLS: Final = frozenset(
    {
        "poll_workflow_execution_update",
        "poll_activity_execution",
        "poll_nexus_operation_execution",
    }
)


class Load:
    """The calls that wait since the service has last answered one.

    Many calls under way say nothing: a thousand starts at once are fine where the service works
    them off. So calls count from the last answer on, and are too many only when that was long ago.

    Args:
        limit: How many may wait.
        patience: How many seconds without an answer are long.
        counters: Where calls are counted.
    """

    def __init__(self, *, limit: int, patience: float, counters: ConnectionCounters) -> None:
        self.limit = limit
        self._patience = patience
        self.counters = counters
        self._waiting: set[object] = set()  # a set, because loops of several threads change it
        self._since = 0.0

    @property
    def waiting(self) -> int:
        """How many calls wait since the last answer."""
        return len(self._waiting)

    @property
    def is_silent(self) -> bool:
        """Whether calls have waited for long, and none was answered."""
        return bool(self._waiting) and time.monotonic() - self._since > self._patience

    @property
    def is_too_much(self) -> bool:
        """Whether a further call should not be sent."""
        return len(self._waiting) >= self.limit and self.is_silent

    def refuse(self) -> None:
        """Count a call that was not sent."""
        self.counters.refused_calls += 1

    def add(self, call: object) -> None:
        """Count a call that is sent."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.add(call)
        self.counters.calls += 1

    def end(self, call: object, error: BaseException | None) -> None:
        """Take note of a call that has come to its end."""
        if error is None or (isinstance(error, RPCError) and error.status not in NO_ANSWER):
            self._waiting = set()
            return
        self._waiting.discard(call)
        if isinstance(error, RPCError):
            self.counters.failed_calls += 1


def is_long_poll(rpc: str, request: Message) -> bool:
    """Whether the service answers only when something happens."""
    return rpc.startswith("poll_") or getattr(request, "wait_new_event", False)


def is_reading_poll(rpc: str, request: Message) -> bool:
    """Whether the service answers only when something happens, and nothing is taken by asking."""
    return rpc in _READING_POLLS or getattr(request, "wait_new_event", False)
