"""The form of the gate's table: one shape for a message, one row for an RPC."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, final

from google.protobuf.message import Message

from orkestra.temporal.guard.bounds import Bounds
from orkestra.temporal.guard.rules import Rule

ResponseRule: TypeAlias = Callable[[Any, Bounds], None]
"""Takes out of a response, in place, what the tenant may not see."""


@final
class Inside:
    """Type of `INSIDE`."""

    __slots__ = ()


INSIDE: Final = Inside()
"""Rule of a field whose own message is checked by its shape, even where the field is not set."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is decided about every field of a message; a field that is not listed is refused.

    Attributes:
        message: The message.
        must: Fields with the rule that holds for them, set or not.
        free: Names of the fields that may have any value; where they are messages, the shapes of
            those decide.
        opaque: Names of the fields that may hold anything whatever, because nothing acts on it or
            a rule compares it whole.
        never: Fields that are refused when they are set, with the reason.
        whole: Rules for the message as a whole.
    """

    message: type[Message]
    must: Mapping[str, Rule | Inside] = field(default_factory=dict[str, Rule | Inside])
    free: str = ""
    opaque: str = ""
    never: Mapping[str, str] = field(default_factory=dict[str, str])
    whole: tuple[Rule, ...] = ()

    @property
    def decided(self) -> list[str]:
        """Names of the fields that it lists, with those that it lists twice."""
        return [*self.must, *self.free.split(), *self.opaque.split(), *self.never]


@dataclass(frozen=True, slots=True)
class Allowed:
    """A row of an RPC that tenants may call, if the request fits its shape.

    Attributes:
        request: The request's message.
        response: Rule for the response.
        needs_tenant: Whether it can only be called for a tenant.
    """

    request: type[Message]
    response: ResponseRule | None = None
    needs_tenant: bool = True


@dataclass(frozen=True, slots=True)
class Denied:
    """A row of an RPC, or of a whole service, that only operators may call.

    Attributes:
        reason: Why; the end of a sentence.
    """

    reason: str
