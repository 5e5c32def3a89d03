"""Spans that were lost: counted always, logged once."""

import logging
import threading
from collections import Counter
from enum import StrEnum
from typing import Final

_logger: Final = logging.getLogger(__name__)


class Loss(StrEnum):
    """Why spans were lost."""

    QUEUE_FULL = "queue_full"
    """They came faster than Langfuse took them; `queue_size` says how many may wait."""
    REJECTED = "rejected"
    """Langfuse refused them for good: a wrong key, for instance."""
    TOO_LARGE = "too_large"
    """A single span was too large for Langfuse, or for a proxy before it."""
    UNSENT = "unsent"
    """They still waited when everything was closed."""
    UNKNOWN_TENANT = "unknown_tenant"
    """The directory did not say in time to which project they belong."""
    INTERNAL = "internal"
    """They could not be written: an error of Orkestra's, of the mask's or of the SDK's."""


class Losses:
    """Counts lost spans by reason; safe to use from any thread."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._counts: Counter[Loss] = Counter()
        self._lock = threading.Lock()

    def count(self, loss: Loss, spans: int, why: object) -> None:
        """Count spans as lost, and log the first of each reason.

        Args:
            loss: The reason.
            spans: How many were lost.
            why: What happened, for the log.
        """
        if spans <= 0:
            return
        with self._lock:
            is_first = loss not in self._counts
            self._counts[loss] += spans
        if is_first:
            message = "Spans are lost (%s): %s. Workflows go on; more of these are only counted"
            _logger.warning(message, loss, why)

    def total(self) -> int:
        """How many spans were lost altogether."""
        with self._lock:
            return self._counts.total()

    def counts(self) -> Counter[Loss]:
        """How many spans were lost, by reason."""
        with self._lock:
            return self._counts.copy()
