"""Answers of a source that may be slow, wrong or away: remembered, asked for once, bounded.

`CachedTenantDirectory`: a directory that answers at once, and while its source is away.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from orkestra.directory.source import TenantDirectory, TenantRecord
from orkestra.errors import ConfigurationError, DirectoryUnavailableError

_logger: Final = logging.getLogger(__name__)
_Value = TypeVar("_Value")

_PAUSE: Final = 1.0
"""Seconds in which a source that just failed is not asked again where an old answer will do."""

_NOTHING_FOR: Final = 5.0
"""Seconds at most for which "there is none" is believed, because tenants sign up."""


@dataclass(slots=True)
class Answer(Generic[_Value]):
    """What the source said, and until when that is the answer.

    Attributes:
        value: What it said; None means that there is no such thing.
        fresh_until: From then on the source is asked again.
        useful_until: From then on it is no answer any more, even if the source is away.
    """

    value: _Value | None
    fresh_until: float
    useful_until: float


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How long answers hold, and how long the source may take.

    Attributes:
        ttl: An answer younger than this is given without asking.
        stale_for: For so much longer it is given where the source does not answer.
        deadline: How long the source may take.
        max_entries: How many answers are remembered; as many more of "there is none".
        clock: Seconds that never go back.
    """

    ttl: timedelta
    stale_for: timedelta
    deadline: timedelta
    max_entries: int
    clock: Callable[[], float]


class Memory(Generic[_Value]):
    """Remembers answers by key; all who miss one at the same time share one question.

    Args:
        terms: How long answers hold.
        subject: What is asked for, for errors.
    """

    def __init__(self, terms: Terms, subject: str) -> None:
        self._terms = terms
        self._subject = subject
        self._answers: OrderedDict[Hashable, Answer[_Value]] = OrderedDict()
        self._nothing: OrderedDict[Hashable, Answer[_Value]] = OrderedDict()
        self._flights: dict[
            tuple[asyncio.AbstractEventLoop, Hashable], asyncio.Task[Answer[_Value]]
        ] = {}

    def __len__(self) -> int:
        return len(self._answers) + len(self._nothing)

    def fresh(self, key: Hashable) -> Answer[_Value] | None:
        """The answer that holds now, or None where the source is to be asked; for any thread."""
        answer = self.last(key)
        is_fresh = answer is not None and self._terms.clock() < answer.fresh_until
        return answer if is_fresh else None

    def last(self, key: Hashable) -> Answer[_Value] | None:
        """The last answer, however old, or None where there was none; for any thread."""
        return self._answers.get(key) or self._nothing.get(key)

    def forget(self, key: Hashable) -> None:
        """Ask the source next time."""
        self._answers.pop(key, None)
        self._nothing.pop(key, None)

    async def get(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> _Value | None:
        """The answer, from memory or from the source.

        Args:
            key: What is asked for.
            ask: Asks the source; whatever it raises counts as no answer.

        Raises:
            DirectoryUnavailableError: There is no answer, and no old one that is still useful.
        """
        answer = self.fresh(key)
        if answer is None:
            try:
                answer = await asyncio.shield(self._flight(key, ask))
            except DirectoryUnavailableError as error:
                answer = self._old_answer(key, error)
        return answer.value

    def _old_answer(self, key: Hashable, error: DirectoryUnavailableError) -> Answer[_Value]:
        now = self._terms.clock()
        answer = self._answers.get(key)
        if answer is None or now >= answer.useful_until:
            raise error
        answer.fresh_until = min(now + _PAUSE, answer.useful_until)
        _logger.warning("Going on with what was last known: %s", error)
        return answer

    def _flight(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> "asyncio.Task[Answer[_Value]]":
        place = (asyncio.get_running_loop(), key)
        flight = self._flights.get(place)
        if flight is None:
            for dead in [each for each in self._flights if each[0].is_closed()]:
                del self._flights[dead]
            flight = self._flights[place] = asyncio.create_task(self._ask(key, ask))
            flight.add_done_callback(lambda done: self._land(place, done))
        return flight

    def _land(
        self,
        place: tuple[asyncio.AbstractEventLoop, Hashable],
        flight: "asyncio.Task[Answer[_Value]]",
    ) -> None:
        self._flights.pop(place, None)
        if not flight.cancelled():
            flight.exception()  # nobody may be waiting for it any more

    async def _ask(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> Answer[_Value]:
        seconds = self._terms.deadline.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                value = await ask()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, TimeoutError):
                why = f"no answer within {seconds:g} s"
            msg = f"the tenant directory cannot be asked for {self._subject} {key!r}: {why}"
            raise DirectoryUnavailableError(msg) from error
        return self._remember(key, value)

    def _remember(self, key: Hashable, value: _Value | None) -> Answer[_Value]:
        now, ttl = self._terms.clock(), self._terms.ttl.total_seconds()
        self.forget(key)
        if value is None:
            fresh_until = now + min(ttl, _NOTHING_FOR)
            answer = Answer[_Value](value, fresh_until, fresh_until)
            into = self._nothing
        else:
            stale_for = self._terms.stale_for.total_seconds()
            answer = Answer(value, now + ttl, now + ttl + stale_for)
            into = self._answers
        into[key] = answer
        while len(into) > self._terms.max_entries:
            into.popitem(last=False)
        return answer


_ALL: Final = "all"


class CachedTenantDirectory:
    """Remembers what another directory says.

    A change there, a suspension for instance, takes effect within `ttl`. While the source is away,
    tenants that were known go on for `stale_for` more; then their starts are refused. That a
    tenant is unknown is believed for five seconds at most, and only while the source answers.

    It belongs to no event loop, and may be read from any thread.

    Args:
        source: The directory to ask.
        ttl: How long an answer holds.
        stale_for: How much longer it is used where the source does not answer.
        deadline: How long the source may take. Workflow tasks wait a second at most, and are tried
            again with the answer that has come by then.
        max_entries: How many tenants are remembered, and as many unknown ones: the oldest go.
        clock: Seconds that never go back, for tests.

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
        terms = Terms(
            ttl=ttl, stale_for=stale_for, deadline=deadline, max_entries=max_entries, clock=clock
        )
        self.source = source
        self._records = Memory[TenantRecord](terms, "tenant")
        self._dedicated = Memory[Collection[TenantRecord]](terms, "places")

    def __len__(self) -> int:
        """How many tenants are remembered, unknown ones among them."""
        return len(self._records)

    async def find(self, tenant: str) -> TenantRecord | None:
        """See `TenantDirectory`.

        Raises:
            DirectoryUnavailableError: The source gave no answer, and none is remembered.
        """
        return await self._records.get(tenant, lambda: self._find(tenant))

    async def dedicated(self) -> Collection[TenantRecord]:
        """See `TenantDirectory`.

        Raises:
            DirectoryUnavailableError: The source gave no answer, and none is remembered.
        """
        return await self._dedicated.get(_ALL, self._list) or ()

    def remembered(self, tenant: str) -> Answer[TenantRecord] | None:
        """What `find()` would return without asking, or None where it would ask."""
        return self._records.fresh(tenant)

    def remembered_dedicated(self) -> Collection[TenantRecord] | None:
        """What `dedicated()` would return without asking, or None where it would ask."""
        answer = self._dedicated.fresh(_ALL)
        return None if answer is None else answer.value

    def last(self, tenant: str) -> TenantRecord | None:
        """What was last said of a tenant, however long ago."""
        answer = self._records.last(tenant)
        return None if answer is None else answer.value

    def forget_dedicated(self) -> None:
        """Ask for the tenants with places of their own next time."""
        self._dedicated.forget(_ALL)

    async def _find(self, tenant: str) -> TenantRecord | None:
        record = await self.source.find(tenant)
        if record is not None and record.tenant != tenant:
            msg = f"the record found for {tenant!r} is of {record.tenant!r}: compare IDs exactly"
            raise ConfigurationError(msg)
        return record

    async def _list(self) -> Collection[TenantRecord]:
        return tuple(await self.source.dedicated())
