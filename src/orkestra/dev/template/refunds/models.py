"""What goes in and comes out. None of it names a tenant: that travels beside it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    order: str
    cents: int


@dataclass(frozen=True)
class Refund:
    paid: bool
    note: str
