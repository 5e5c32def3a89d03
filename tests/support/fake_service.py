"""A service client that refuses or answers some calls itself, as another server would."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, ServiceClient

Answer = Callable[[Message], Message | None]


class FakeServiceClient(ServiceClient):
    """Sends calls with another service client, except those that have an answer here.

    An answer may raise, or return None so that the call is sent.
    """

    def __init__(self, inner: ServiceClient, answers: Mapping[str, Answer]) -> None:
        super().__init__(inner.config)
        self.calls: list[str] = []
        self._inner = inner
        self._answers = answers

    @property
    def worker_service_client(self) -> Any:
        return self._inner.worker_service_client

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        self._inner.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        self._inner.update_api_key(api_key)

    async def _rpc_call(self, rpc: str, req: Message, resp_type: type[Any], **options: Any) -> Any:
        self.calls.append(rpc)
        answer = self._answers[rpc](req) if rpc in self._answers else None
        return answer or await self._inner._rpc_call(rpc, req, resp_type, **options)


def with_answers(client: Client, **answers: Answer) -> Client:
    """The same client, with fixed answers to the named calls."""
    service = FakeServiceClient(client.service_client, answers)
    return Client(service, namespace=client.namespace)


def refuse(error: Exception) -> Answer:
    """An answer that raises."""

    def answer(_: Message) -> Message | None:
        raise error

    return answer


def status(code: RPCStatusCode, message: str) -> RPCError:
    """The SDK's error for a gRPC status."""
    return RPCError(message, code, b"")
