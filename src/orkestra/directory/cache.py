"""The directory's answers, from a source that may be slow, wrong or away.

Each answer is fresh for a while, then useful only while the source does not answer. All callers
who need the same answer at the same time share one question.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from orkestra.caches import LruCache, SingleFlight
from orkestra.directory.source import TenantDirectory, TenantRecord
from orkestra.errors import ConfigurationError, DirectoryUnavailableError

_logger: Final = logging.getLogger(__name__)
_Value = TypeVar("_Value")

_RETRY_AFTER_SECONDS: Final = 1.0
"""Pause after a failed question, in which the old answer is used without asking."""

_MAX_ABSENT_SECONDS: Final = 5.0
"""Limit on how long "there is none" is believed, because tenants sign up."""

ALL: Final = "all"
"""Key of the only entry in `CachedTenantDirectory.places`."""


class CachedTenantDirectory:
    """Directory that remembers the answers of another one.

    A change at the source, such as a suspension, takes effect within `ttl`. While the source does
    not answer, known tenants continue for `stale_for` more; after that their starts are refused.
    An unknown tenant stays unknown for five seconds at most, and only while the source answers.

    It belongs to no event loop, and may be read from any thread.

    Args:
        source: The directory to ask.
        ttl: How long an answer holds.
        stale_for: How much longer it is used where the source does not answer.
        deadline: How long the source may take. Workflow tasks wait a second at most, and are tried
            again with the answer that has come by then.
        max_entries: How many tenants are remembered, and as many unknown ones. The least recently
            used ones go first.
        clock: Seconds that never go back, for tests.

    Attributes:
        records: Answers of `find()`, for those who may not wait.
        places: The answer of `dedicated()`, likewise.

    Example:
        ```python
        directory = CachedTenantDirectory(
            CallableTenantDirectory(accounts.find), ttl=timedelta(seconds=5)
        )
        ```
    """

    def __init__(
        self,
        source: TenantDirectory,
        *,
        ttl: timedelta = timedelta(seconds=30),
        stale_for: timedelta = timedelta(minutes=10),
        deadline: timedelta = timedelta(seconds=1),
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        policy = CachePolicy(
            ttl=ttl, stale_for=stale_for, deadline=deadline, max_entries=max_entries, clock=clock
        )
        self.source = source
        self.records = TtlCache[TenantRecord](policy, "tenant")
        self.places = TtlCache[Collection[TenantRecord]](policy, "places")

    def __len__(self) -> int:
        """Number of remembered tenants, unknown ones included."""
        return len(self.records)

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`.

        Raises:
            DirectoryUnavailableError: The source gave no answer, and none is remembered.
        """
        return await self.records.get(tenant, lambda: self._find(tenant))

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`.

        Raises:
            DirectoryUnavailableError: The source gave no answer, and none is remembered.
        """
        return await self.places.get(ALL, self._list) or ()

    async def _find(self, tenant: str) -> TenantRecord | None:
        record = await self.source.find(tenant)
        if record is not None and record.tenant != tenant:
            msg = f"the record found for {tenant!r} is of {record.tenant!r}: compare IDs exactly"
            raise ConfigurationError(msg)
        return record

    async def _list(self) -> Collection[TenantRecord]:
        return tuple(await self.source.dedicated())


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """Lifetimes of answers, and limits."""

    ttl: timedelta
    stale_for: timedelta
    deadline: timedelta
    max_entries: int
    clock: Callable[[], float]


@dataclass(slots=True)
class CacheEntry(Generic[_Value]):
    """Answer with two expiry times; a value of None means that there is no such thing."""

    value: _Value | None
    fresh_until: float
    useful_until: float


class TtlCache(Generic[_Value]):
    """Answers by key; positive and negative ones do not displace each other.

    Args:
        policy: Lifetimes and limits.
        subject: The kind of thing that is asked for, for errors.
    """

    def __init__(self, policy: CachePolicy, subject: str) -> None:
        self._policy = policy
        self._subject = subject
        self._found = LruCache[Hashable, CacheEntry[_Value]](policy.max_entries)
        self._absent = LruCache[Hashable, CacheEntry[_Value]](policy.max_entries)
        # The source may read the caller's context, and goes on when every caller has given up:
        # the next attempt of a workflow task needs the answer.
        self._questions = SingleFlight[CacheEntry[_Value]](isolated=False, cancel_unwanted=False)

    def __len__(self) -> int:
        return len(self._found) + len(self._absent)

    async def get(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> _Value | None:
        """Return the answer, remembered or from the source.

        Args:
            key: The thing to ask for.
            ask: Asks the source; whatever it raises counts as no answer.

        Raises:
            DirectoryUnavailableError: There is no answer, and no old one that is still useful.
        """
        entry = self.fresh(key)
        if entry is None:
            try:
                entry = await self._questions.join(key, lambda: self._ask(key, ask))
            except DirectoryUnavailableError as error:
                entry = self._old_answer(key, error)
        return entry.value

    def fresh(self, key: Hashable) -> CacheEntry[_Value] | None:
        """Return the answer that holds now; None where the source is to be asked."""
        entry = self.last(key)
        is_fresh = entry is not None and self._policy.clock() < entry.fresh_until
        return entry if is_fresh else None

    def last(self, key: Hashable) -> CacheEntry[_Value] | None:
        """Return the last answer, however old."""
        return self._found.get(key) or self._absent.get(key)

    def forget(self, key: Hashable) -> None:
        """Ask the source next time."""
        self._found.pop(key)
        self._absent.pop(key)

    def _old_answer(self, key: Hashable, error: DirectoryUnavailableError) -> CacheEntry[_Value]:
        now = self._policy.clock()
        entry = self._found.get(key)  # "there is none" is no answer while the source fails
        if entry is None or now >= entry.useful_until:
            raise error
        entry.fresh_until = min(now + _RETRY_AFTER_SECONDS, entry.useful_until)
        _logger.warning("Using the last known answer: %s", error)
        return entry

    async def _ask(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> CacheEntry[_Value]:
        seconds = self._policy.deadline.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                value = await ask()
        except Exception as error:  # the source is the user's code: it may raise anything
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, TimeoutError):
                reason = f"no answer within {seconds:g} s"
            msg = f"the tenant directory cannot be asked for {self._subject} {key!r}: {reason}"
            raise DirectoryUnavailableError(msg) from error
        return self._remember(key, value)

    def _remember(self, key: Hashable, value: _Value | None) -> CacheEntry[_Value]:
        policy = self._policy
        now, ttl = policy.clock(), policy.ttl.total_seconds()
        self.forget(key)  # a tenant moves between the two caches
        if value is None:
            until = now + min(ttl, _MAX_ABSENT_SECONDS)
            entry = CacheEntry[_Value](None, until, until)
            self._absent.put(key, entry)
        else:
            entry = CacheEntry(value, now + ttl, now + ttl + policy.stale_for.total_seconds())
            self._found.put(key, entry)
        return entry
