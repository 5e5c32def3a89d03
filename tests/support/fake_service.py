"""A service client that refuses or answers some calls itself, as a gate or another server would."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, ServiceClient

Answer = Callable[[Message], Message | None]


class GatedServiceClient(ServiceClient):
    """Passes calls on to another one, except those that have an answer here.

    An answer may raise, or return None to pass the call on after all.
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

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[Any],
        *,
        service: str,
        retry: bool,
        metadata: Mapping[str, str | bytes],
        timeout: timedelta | None,
    ) -> Any:
        self.calls.append(rpc)
        answer = self._answers[rpc](req) if rpc in self._answers else None
        if answer is not None:
            return answer
        return await self._inner._rpc_call(
            rpc=rpc,
            req=req,
            resp_type=resp_type,
            service=service,
            retry=retry,
            metadata=metadata,
            timeout=timeout,
        )


def gated(client: Client, **answers: Answer) -> Client:
    """The client again, behind a gate that answers the named calls."""
    gate = GatedServiceClient(client.service_client, answers)
    return Client(gate, namespace=client.namespace)


def refuse(error: Exception) -> Answer:
    """An answer that raises."""

    def answer(_: Message) -> Message | None:
        raise error

    return answer


def status(code: RPCStatusCode, message: str) -> RPCError:
    """The error that the SDK makes of a status."""
    return RPCError(message, code, b"")
