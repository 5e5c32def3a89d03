"""The service client below the guard, for looking after the server itself.

Health checks and search attributes are the platform's matter: they need calls that no tenant may
make. Code that acts for a tenant gets the guarded service client back and is refused by it.

A service client in the shape that the SDK's `Worker` asks for.

How one service client passes a call on to the next.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypedDict, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.bridge.client import Client as CoreClient
from temporalio.client import Client
from temporalio.service import ServiceClient, _BridgeServiceClient

from orkestra.errors import ForbiddenOperationError


def unconfined_service(client: Client) -> ServiceClient:
    """The service client that sends for the client, without the guard where that is allowed.

    Args:
        client: Any client; one that is bound to a tenant keeps its guard.
    """
    service = client.service_client
    try:
        inner: ServiceClient = getattr(service, "inner", service)
    except ForbiddenOperationError:
        return service
    return inner


def unconfined(client: Client) -> Client:
    """A bare client of the same namespace on `unconfined_service()`."""
    return Client(unconfined_service(client), namespace=client.namespace)


class CallOptions(TypedDict):
    """What the SDK says of a call besides its name, the request and the type of the answer.

    Attributes:
        service: Name that the SDK gives the service, for instance `workflow`.
        retry: Whether the SDK tries again.
        metadata: The call's own.
        timeout: Its time limit; None means the SDK's.
    """

    service: str
    retry: bool
    metadata: Mapping[str, str | bytes]
    timeout: timedelta | None


_Response = TypeVar("_Response", bound=Message)


class WorkerServiceClient(_BridgeServiceClient):
    """Looks like the SDK's own service client to `Worker`, and keeps no reference to the core's.

    The core polls by itself, with the client that it finds here; whatever is called on this
    object, `workflow_service` included, goes the way of all calls.

    Args:
        service: The service client that calls go through.
        sdk_client: Gives the SDK's own, whose core polls.
    """

    def __init__(
        self, service: ServiceClient, sdk_client: Callable[[], _BridgeServiceClient]
    ) -> None:
        # Not the parent's own, which would prepare a connection of its own.
        ServiceClient.__init__(self, service.config)
        self._service = service
        self._sdk_client = sdk_client
        self._runtime = sdk_client()._runtime  # noqa: SLF001 - Worker reads it

    @property
    def _bridge_client(self) -> CoreClient | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] - an attribute would keep the socket
        return self._sdk_client()._bridge_client  # noqa: SLF001 - Worker reads it

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        """See base class."""
        self._service.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        """See base class."""
        self._service.update_api_key(api_key)

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class."""
        return await self._service._rpc_call(rpc, req, resp_type, **options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - one object in two shapes
