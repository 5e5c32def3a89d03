"""Credentials that change while a connection is open.

An API key is changed in place. TLS is settled when a socket is opened, so certificates need a new
one: it is opened beside the old one, takes over what is new, and the old one closes with the last
call that is on it. Until new credentials work, the old ones stay.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from temporalio.runtime import Runtime
from temporalio.service import ConnectConfig, RPCStatusCode

from orkestra.config import TemporalSettings
from orkestra.errors import ConnectionClosedError, OrkestraError
from orkestra.temporal.connection.api_key import BadApiKeyError
from orkestra.temporal.connection.load import NO_ANSWER
from orkestra.temporal.connection.options import BadCertificateError, connect_config
from orkestra.temporal.connection.statistics import ConnectionCounters

if TYPE_CHECKING:
    from orkestra.temporal.connection.connection import Connection

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_PATIENCE: Final = 1.0
_REFUSED: Final = frozenset({RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED})


class Rotation:
    """Looks for changed credentials: before a call when it is time, and while workers run.

    There is no task or thread as long as nobody uses the connection.

    Attributes:
        generation: Grows with each change that was taken up.

    Args:
        connection: The connection to keep up to date.
        settings: Where the credentials are, and how often to look.
        runtime: Runtime of the connection.
        config: What the connection was opened with.
        reopen: Opens another connection with a changed configuration.
        counters: Where rotations are counted.
    """

    def __init__(
        self,
        connection: "Connection",
        settings: TemporalSettings,
        runtime: Runtime | None,
        *,
        config: ConnectConfig,
        reopen: "Callable[[ConnectConfig], Awaitable[Connection]]",
        counters: ConnectionCounters,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._runtime = runtime
        self._config = config
        self._reopen = reopen
        self._counters = counters
        self._interval = settings.credentials_refresh.total_seconds()
        self._due = time.monotonic() + self._interval
        self.generation = 0
        self._look: asyncio.Task[None] | None = None
        self._complaint = ""

    async def before_call(self) -> None:
        """Look for changes if it is time to; they may take a second, else the call goes ahead."""
        if time.monotonic() >= self._due:
            await asyncio.wait([self._looking()], timeout=_PATIENCE)

    async def has_mended(self, status: RPCStatusCode, *, since: int) -> bool:
        """Whether a call that failed is worth another try, because credentials have changed.

        A call that was under way on the old connection shares its fate; sending it again is what
        the SDK would have gone on doing there.

        Args:
            status: What it failed with; where that is a refusal, changes are looked for at once.
            since: The `generation` when it began.
        """
        if status in _REFUSED and self.generation == since:
            await asyncio.wait([self._looking()])
        return self.generation != since and (status in _REFUSED or status in NO_ANSWER)

    async def keep_looking(self) -> None:
        """Look for changes again and again, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))
            if time.monotonic() >= self._due:
                await asyncio.wait([self._looking()])

    def _looking(self) -> asyncio.Task[None]:
        """The look that this loop is taking, or a new one, in a context of nobody's."""
        look = self._look
        if look is None or look.done() or look.get_loop() is not asyncio.get_running_loop():
            self._due = time.monotonic() + self._interval
            look = asyncio.create_task(self._take_a_look(), context=contextvars.Context())
            self._look = look
        return look

    async def _take_a_look(self) -> None:
        try:
            config = await connect_config(self._settings, self._runtime)
            if config.tls != self._config.tls:
                await self._move(config)
                self._say("Certificates have changed: a new connection leads to Temporal at %s")
            elif config.api_key != self._config.api_key:
                self._connection.change_api_key(config.api_key)
                self._say("The API key for Temporal at %s has changed")
        except ConnectionClosedError:
            return
        except (BadCertificateError, BadApiKeyError, OrkestraError) as error:
            self._complain(str(error))
            return
        self._complaint = ""
        self._config = config

    async def _move(self, config: ConnectConfig) -> None:
        """Open another connection, with what users have changed on this one, and take it over."""
        current = self._connection.service_client.config
        if config.api_key == self._config.api_key:
            config = replace(config, api_key=current.api_key)
        fresh = await self._reopen(replace(config, rpc_metadata=current.rpc_metadata))
        try:
            self._connection.take_over(fresh)
        finally:
            await fresh.close()

    def _say(self, what: str) -> None:
        self.generation += 1
        self._counters.rotations += 1
        _logger.info(what, self._settings.address)

    def _complain(self, why: str) -> None:
        self._counters.failed_rotations += 1
        if why != self._complaint:
            self._complaint = why
            _logger.warning("Changed credentials cannot be used, the old ones stay: %s", why)
