"""Payloads of a history as values, without the types that the workflow's code knows."""

from typing import Any

from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter, SerializationContext
from temporalio.exceptions import ApplicationError


class Values:
    """Decodes payloads in one context; what cannot be decoded is told by its size and encoding."""

    def __init__(self, converter: DataConverter, context: SerializationContext) -> None:
        """Decode with the client's converter, codec included."""
        self._converter = converter.with_context(context)

    async def arguments(self, payloads: Payloads | None) -> list[Any]:
        """Each payload's value."""
        if payloads is None or not payloads.payloads:
            return []
        try:
            return await self._converter.decode(payloads.payloads)
        except Exception:  # noqa: BLE001 - a codec raises what it likes, and some may be readable
            return [await self._value(payload) for payload in payloads.payloads]

    async def result(self, payloads: Payloads | None) -> Any:
        """The only value; None where there is none."""
        values = await self.arguments(payloads)
        return values[0] if len(values) == 1 else values or None

    async def failure(self, failure: Failure) -> BaseException:
        """The error that the failure stands for."""
        copied = Failure()
        copied.CopyFrom(failure)  # decoding writes into it
        try:
            return await self._converter.decode_failure(copied)
        except Exception:  # noqa: BLE001 - as above
            return ApplicationError(failure.message)

    async def _value(self, payload: Payload) -> Any:
        try:
            [value] = await self._converter.decode([payload])
        except Exception:  # noqa: BLE001 - as above
            encoding = payload.metadata.get("encoding", b"").decode("ascii", "replace")
            return f"<{len(payload.data)} bytes of {encoding or 'no encoding'}>"
        return value
