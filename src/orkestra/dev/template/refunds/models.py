"""Input and result of a refund. Neither has a tenant: Orkestra sends it with each call."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    order: str
    cents: int


@dataclass(frozen=True)
class Refund:
    paid: bool
    note: str
