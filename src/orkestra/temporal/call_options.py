"""How one service client passes a call on to the next."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TypedDict


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
