"""The service client that clients and workers get: every call of theirs goes over one `Wire`."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message
from temporalio.bridge.client import Client as CoreClient
from temporalio.service import (
    RPCError,
    ServiceClient,
    _BridgeServiceClient,  # pyright: ignore[reportPrivateUsage] - the class that Worker asks for
)

from orkestra.temporal.connection.load import NO_ANSWER, is_reading_poll
from orkestra.temporal.connection.wire import Wire

if TYPE_CHECKING:
    from orkestra.temporal.connection.connection import Connection
    from orkestra.temporal.connection.rotation import Rotation

_Response = TypeVar("_Response", bound=Message)


class ManagedServiceClient(ServiceClient):
    """A service client whose connection can be closed under everybody who holds it.

    Attributes:
        connection: The connection, shared with other service clients.
        rotation: Takes up changed credentials, where they can change.

    Args:
        connection: The connection that owns the wire.
        wire: The wire to send on.
    """

    def __init__(self, connection: "Connection", wire: Wire) -> None:
        super().__init__(wire.sdk_client.config)
        self.connection = connection
        self.rotation: Rotation | None = None
        self._wire = wire

    @property
    def worker_service_client(self) -> _BridgeServiceClient:
        """What the SDK's `Worker` polls with.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        return _WorkerServiceClient(self, self._wire)

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        """Change the metadata of every call on this connection, other clients' included.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self._wire.sdk_client.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        """Change the API key of every call on this connection, other clients' included.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self._wire.sdk_client.update_api_key(api_key)

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        *,
        service: str,
        retry: bool,
        metadata: Mapping[str, str | bytes],
        timeout: timedelta | None,
    ) -> _Response:
        """See base class."""
        call: Callable[[], Awaitable[_Response]] = partial(
            self._wire.call,
            rpc,
            req,
            resp_type,
            service=service,
            retry=retry,
            metadata=metadata,
            timeout=timeout,
        )
        if timeout is None and is_reading_poll(rpc, req):
            call = partial(self._poll, call)
        rotation = self.rotation
        if rotation is None:
            return await call()
        await rotation.before_call()
        began = rotation.generation
        try:
            return await call()
        except RPCError as error:
            if not await rotation.has_mended(error.status, since=began):
                raise
        return await call()

    async def _poll(self, call: Callable[[], Awaitable[_Response]]) -> _Response:
        """Poll on when a connection is lost, as long as the service can be reached again.

        The SDK counts its retries, and the time for them, from the beginning of a call. So it would
        give up a poll that has lasted a while when its connection is lost for the first time.
        """
        while True:
            try:
                return await call()
            except RPCError as error:
                if error.status not in NO_ANSWER or not await self._is_reached():
                    raise

    async def _is_reached(self) -> bool:
        try:
            await self.check_health(retry=True)
        except RPCError as error:
            return error.status not in NO_ANSWER
        return True


class _WorkerServiceClient(_BridgeServiceClient):
    """Looks like the SDK's own service client to `Worker`, and keeps no reference to the core's.

    The core polls by itself; whatever is called on this object, `workflow_service` included, goes
    the way of all calls.
    """

    def __init__(self, managed: ManagedServiceClient, wire: Wire) -> None:
        # Not the parent's own, which would prepare a connection of its own.
        ServiceClient.__init__(self, managed.config)
        self._managed = managed
        self._wire = wire
        self._runtime = wire.sdk_client.worker_service_client._runtime  # noqa: SLF001 - Worker reads it

    @property
    def _bridge_client(self) -> CoreClient | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] - an attribute would keep the socket
        return self._wire.sdk_client.worker_service_client._bridge_client  # noqa: SLF001 - Worker reads it

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        """See base class."""
        self._managed.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        """See base class."""
        self._managed.update_api_key(api_key)

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        *,
        service: str,
        retry: bool,
        metadata: Mapping[str, str | bytes],
        timeout: timedelta | None,
    ) -> _Response:
        """See base class."""
        return await self._managed._rpc_call(  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - one object in two shapes
            rpc,
            req,
            resp_type,
            service=service,
            retry=retry,
            metadata=metadata,
            timeout=timeout,
        )
