"""Attempts that run in processes of a pool: their span is current there, too.

What is observed in the child comes back beside the result and is masked, counted and sent by this
process, so that a child needs no way to Langfuse of its own and nothing waits when it ends.
"""

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, process
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, ParamSpec, TypeVar, cast

from pydantic import SecretStr

from orkestra.config import LangfuseSettings
from orkestra.langfuse import sdk
from orkestra.langfuse.items import Observed, Taker
from orkestra.langfuse.live import AttemptSpan, Inside, entered
from orkestra.langfuse.observing import join_global_provider, open_observing

_logger: Final = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_KEPT: Final = 8


class ChildSpans(Executor):
    """A pool whose calls run inside an attempt."""

    def __init__(
        self, pool: Executor, inside: Inside, settings: LangfuseSettings, taker: Taker
    ) -> None:
        """Run on the pool.

        Args:
            pool: Runs calls in other processes.
            inside: The attempt.
            settings: Its project.
            taker: Takes what is observed inside.
        """
        self._pool = pool
        self._taker = taker
        self._wrap = partial(
            _Call,
            inside=inside,
            project=_Project(
                settings.public_key or "",
                settings.secret_key or SecretStr(""),
                settings.base_url,
                settings.environment,
                settings.release,
                settings.sample_rate,
            ),
        )

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See base class."""
        pending: Future[Any] = self._pool.submit(self._wrap(fn), *args, **kwargs)
        outer: Future[_T] = Future()
        outer.add_done_callback(lambda done: pending.cancel() if done.cancelled() else None)
        pending.add_done_callback(partial(self._unpack, outer))
        return outer

    def _unpack(self, outer: "Future[Any]", pending: "Future[Any]") -> None:
        if pending.cancelled():
            outer.cancel()
        if not outer.set_running_or_notify_cancel():
            return
        if (error := pending.exception()) is not None:
            outer.set_exception(error)
            return
        reply: _Reply = pending.result()
        for observed in reply.observed:
            self._taker.take(observed)
        if reply.error is None:
            outer.set_result(reply.value)
        else:
            # As the pool does it with what is raised to it.
            reply.error.__cause__ = cast("Any", process)._RemoteTraceback(reply.trace)  # noqa: SLF001
            outer.set_exception(reply.error)


@dataclass(frozen=True, slots=True)
class _Project:
    """What the SDK's client in the child needs to know."""

    public_key: str
    secret_key: SecretStr
    base_url: str
    environment: str | None
    release: str | None
    sample_rate: float


@dataclass(slots=True)
class _Reply:
    """How a call ended, and what was observed in it."""

    observed: Sequence[Observed]
    value: Any = None
    error: BaseException | None = None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call in the child, with the attempt's span around it."""

    fn: Callable[..., Any]
    inside: Inside
    project: _Project

    def __call__(self, *args: Any, **kwargs: Any) -> _Reply:
        desk = _desk_or_none(self.project)
        if desk is None:
            return _Reply((), self.fn(*args, **kwargs))
        with entered(AttemptSpan(self.inside, desk.basket)):
            try:
                value, error, trace = self.fn(*args, **kwargs), None, ""
            except BaseException as raised:  # noqa: BLE001 - it is raised again in the parent
                value, error, trace = None, raised, f'\n"""\n{traceback.format_exc()}"""'
        return _Reply(desk.collected(), value, error, trace)


class _Basket:
    """Takes what is observed in a child until its call ends."""

    def __init__(self, public_key: str) -> None:
        self.public_key = public_key
        self.taken: list[Observed] = []

    def take(self, observed: Observed) -> None:
        self.taken.append(observed)


class _Desk:
    """What a child observes with, for one project."""

    def __init__(self, project: _Project) -> None:
        self.basket = _Basket(project.public_key)
        if (inherited := sdk.resources_of(project.public_key)) is not None:
            # A forked child has the parent's client, whose spans would go nowhere.
            sdk.forget_client(project.public_key, inherited)
        settings = LangfuseSettings(
            public_key=project.public_key,
            secret_key=project.secret_key,
            base_url=project.base_url,
            environment=project.environment,
            release=project.release,
            sample_rate=project.sample_rate,
        )
        self._observing = open_observing(settings, lambda _: self.basket)
        join_global_provider()

    def collected(self) -> list[Observed]:
        """What was observed since the last time."""
        self._observing.flush()
        taken, self.basket.taken = self.basket.taken, []
        return taken


def _desk_or_none(project: _Project) -> "_Desk | None":
    try:
        return _desk(project, os.getpid())
    except Exception:
        _logger.exception("Nothing can be observed in this process: its activities go on")
        return None


@lru_cache(_KEPT)
def _desk(project: _Project, _process: int) -> _Desk:
    return _Desk(project)
