"""What connections count, for metrics and for people."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self


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
