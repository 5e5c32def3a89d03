"""How many calls wait for a service that answers none, and the limit to that."""

import time
from typing import Final

from google.protobuf.message import Message
from temporalio.service import RPCError, RPCStatusCode

from orkestra.temporal.connection.statistics import ConnectionCounters

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
