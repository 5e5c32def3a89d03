"""Whether the server serves a namespace."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import NamespaceState
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import ConnectionClosedError
from orkestra.temporal.health import check_temporal_health
from orkestra.temporal.unconfined import unconfined_service

_ANSWER_WITHIN: Final = timedelta(seconds=3)
_ONE_IS_CHANCE: Final = 2


class NamespaceLook:
    """Looks at one namespace over one connection.

    Args:
        client: A client of the namespace.
        search_attribute: The attribute that must be there; None asks for none.
        every: How often to look for the attribute, which seldom goes away.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        client: Client,
        *,
        search_attribute: str | None,
        every: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._attribute = search_attribute
        self._every = every.total_seconds()
        self._clock = clock
        self._last: str | None = None
        self._silences = 0
        self._asked_at = clock()
        self._missing: str | None = None

    async def problem(self) -> str | None:
        """Why the server does not serve the namespace; None where it does."""
        self._last = await self._described()
        return self._last

    async def incomplete(self) -> str | None:
        """What the namespace lacks; None where that is nothing, or cannot be told."""
        if self._attribute is None or self._clock() - self._asked_at < self._every:
            return self._missing
        self._asked_at = self._clock()
        report = await check_temporal_health(
            self._client, timeout=_ANSWER_WITHIN, search_attribute=self._attribute
        )
        found = (each for each in report.problems if each.name == "search_attribute")
        self._missing = next((each.detail for each in found), None)
        return self._missing

    async def _described(self) -> str | None:
        name = self._client.namespace
        try:
            answer = await unconfined_service(self._client).workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=name), retry=False, timeout=_ANSWER_WITHIN
            )
        except RPCError as error:
            return self._failure(name, error)
        except ConnectionClosedError as error:
            return str(error)
        self._silences = 0
        state = answer.namespace_info.state
        if state == NamespaceState.NAMESPACE_STATE_REGISTERED:
            return None
        shown = NamespaceState.Name(state).removeprefix("NAMESPACE_STATE_").lower()
        return f"namespace {name!r} is {shown}"

    def _failure(self, name: str, error: RPCError) -> str | None:
        if error.status is RPCStatusCode.NOT_FOUND:
            return f"namespace {name!r} does not exist any more"
        if error.status is RPCStatusCode.PERMISSION_DENIED:
            return None  # to poll and to describe are rights apart
        self._silences += 1
        if self._silences < _ONE_IS_CHANCE:
            return self._last
        return f"the server does not answer: {error.status.name}"
