"""The service client that clients and workers get: every call of theirs goes over one `Wire`."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.service import (
    RPCError,
    ServiceClient,
    _BridgeServiceClient,  # pyright: ignore[reportPrivateUsage] - the class that Worker asks for
)

from orkestra.temporal.call_options import CallOptions
from orkestra.temporal.connection.load import NO_ANSWER, is_reading_poll
from orkestra.temporal.connection.wire import Wire
from orkestra.temporal.worker_service_client import WorkerServiceClient

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
        wire = self._wire
        return WorkerServiceClient(self, lambda: wire.sdk_client.worker_service_client)

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
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class."""
        call: Callable[[], Awaitable[_Response]] = partial(
            self._wire.call, rpc, req, resp_type, **options
        )
        if options["timeout"] is None and is_reading_poll(rpc, req):
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
