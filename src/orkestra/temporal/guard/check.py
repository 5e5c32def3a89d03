"""Lets a request through, in a copy of its own, or refuses it with what is wrong where.

Turns shapes into checkers: one for each message type, made once.

A checker looks only at what can be wrong. Where nothing below a field is restricted, the field
costs one look-up; where all fields of a message are free or have rules, they are not enumerated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from orkestra.errors import ForbiddenOperationError
from orkestra.temporal.guard.rules import (
    Allowed,
    Bounds,
    Denied,
    Inside,
    OutOfBoundsError,
    Rule,
    Shape,
)
from orkestra.temporal.guard.table import SERVICES, SHAPES

_Check: TypeAlias = Callable[[Any, Bounds], None]

_UNDECIDED: Final = "nothing is decided about this field: it is newer than this Orkestra"


class Checker:
    """Checks messages of one type, and what they hold, against a tenant's bounds."""

    __slots__ = ("_inside", "_rules", "_set_fields", "_whole")

    def __init__(self) -> None:
        self._rules: tuple[tuple[str, Rule], ...] = ()
        self._inside: tuple[tuple[str, Checker], ...] = ()
        self._whole: tuple[Rule, ...] = ()
        self._set_fields: dict[FieldDescriptor, _Check | None] | None = None

    def prepare(self, shape: Shape, checkers: Mapping[str, "Checker | None"]) -> None:
        """Take over a shape; apart from the constructor, as messages hold their own type.

        Args:
            shape: The shape of the message.
            checkers: The checker of every message by full name; None where all is free.
        """
        fields = _fields(shape)
        self._rules = tuple(
            (field.name, rule)
            for field in fields
            if (rule := shape.must.get(field.name)) is not None and not isinstance(rule, Inside)
        )
        inside = [
            (field.name, checkers[_type_of(field)]) for field in fields if _inside(shape, field)
        ]
        self._inside = tuple((name, checker) for name, checker in inside if checker)
        self._whole = shape.whole
        checks = {f: _check_of(f, shape, checkers) for f in fields if not _inside(shape, f)}
        if any(check is not None for check in checks.values()):
            self._set_fields = {**dict.fromkeys(fields), **checks}

    def check(self, message: Message, bounds: Bounds) -> None:
        """Check a message, which is changed where a rule puts another value in place.

        Raises:
            OutOfBoundsError: A field leaves the bounds.
        """
        name = ""
        try:
            for name, rule in self._rules:
                changed = rule(getattr(message, name), bounds)
                if changed is not None:
                    setattr(message, name, changed)
            for name, checker in self._inside:
                checker.check(getattr(message, name), bounds)
            if self._set_fields is not None:
                for field, value in message.ListFields():
                    check = self._set_fields.get(field, _refuse_undecided)
                    if check is not None:
                        name = field.name
                        check(value, bounds)
        except OutOfBoundsError as error:
            error.inside(name)
            raise
        for rule in self._whole:
            rule(message, bounds)


def checkers_of(shapes: Mapping[str, Shape]) -> Mapping[str, Checker | None]:
    """The checker of every message; None where nothing in it, however deep, is restricted.

    Args:
        shapes: The shapes by the full name of their message.
    """
    made = {name: Checker() if _is_restricted(name, shapes) else None for name in shapes}
    for name, checker in made.items():
        if checker is not None:
            checker.prepare(shapes[name], made)
    return made


def messages_in(shape: Shape) -> Iterator[Descriptor]:
    """The messages that a message's permitted fields hold directly, and that need shapes."""
    refused_or_opaque = {*shape.never, *shape.opaque.split()}
    for field in _fields(shape):
        found = _message_of(field)
        if found is not None and field.name not in refused_or_opaque:
            yield found


def _is_restricted(name: str, shapes: Mapping[str, Shape]) -> bool:
    seen = {name}
    waiting = [name]
    while waiting:
        shape = shapes.get(waiting.pop())
        if shape is None or shape.must or shape.never or shape.whole:
            return True
        if {field.name for field in _fields(shape)} - set(shape.decided):
            return True
        found = {message.full_name for message in messages_in(shape)} - seen
        seen |= found
        waiting.extend(found)
    return False


def _fields(shape: Shape) -> Sequence[FieldDescriptor]:
    # The descriptors of the C implementation are of another class in the type stubs.
    return cast("Sequence[FieldDescriptor]", shape.message.DESCRIPTOR.fields)


def _inside(shape: Shape, field: FieldDescriptor) -> bool:
    return isinstance(shape.must.get(field.name), Inside)


def _message_of(field: FieldDescriptor) -> Descriptor | None:
    found = field.message_type
    if found is not None and found.GetOptions().map_entry:
        found = found.fields_by_name["value"].message_type
    return found


def _type_of(field: FieldDescriptor) -> str:
    found = _message_of(field)
    return "" if found is None else found.full_name


def _check_of(
    field: FieldDescriptor, shape: Shape, checkers: Mapping[str, Checker | None]
) -> _Check | None:
    """What to do where the field is set; None for nothing."""
    if field.name in shape.never:
        return _refuse(shape.never[field.name])
    if field.name in shape.opaque.split():
        return None
    if field.name not in shape.decided:
        return _refuse_undecided
    message = _message_of(field)
    if message is None:
        return None
    if message.full_name not in checkers:
        return _refuse_undecided
    checker = checkers[message.full_name]
    if checker is None:
        return None
    if message is not field.message_type:
        return _each_value(checker)
    return _each(checker) if field.is_repeated else checker.check


def _refuse(reason: str) -> _Check:
    def check(_value: object, _bounds: Bounds) -> None:
        raise OutOfBoundsError(f"it may not be set: {reason}")

    return check


_refuse_undecided: Final = _refuse(_UNDECIDED)


def _each(checker: Checker) -> _Check:
    def check(values: list[Message], bounds: Bounds) -> None:
        for index, value in enumerate(values):
            try:
                checker.check(value, bounds)
            except OutOfBoundsError as error:
                error.inside(f"[{index}]")
                raise

    return check


def _each_value(checker: Checker) -> _Check:
    def check(values: Mapping[str, Message], bounds: Bounds) -> None:
        for key, value in values.items():
            try:
                checker.check(value, bounds)
            except OutOfBoundsError as error:
                error.inside(f"[{key!r}]")
                raise

    return check


_CHECKERS: Final = checkers_of(SHAPES)
_UNKNOWN: Final = Denied("nothing is decided about it: it is newer than this Orkestra")

_RESERVED_METADATA: Final = (
    "authorization",
    "call-initiator",
    "caller-",
    "cookie",
    "forwarded",
    "grpc-",
    "proxy-",
    "temporal-",
    "x-forwarded-",
    "xdc-",
)


def row_of(service: str, rpc: str) -> Allowed | Denied:
    """What the table says of an RPC; one that it does not know is denied.

    Args:
        service: Name that the SDK gives the service, for instance `workflow`.
        rpc: Name in lower case with underscores.
    """
    rows = SERVICES.get(service, _UNKNOWN)
    return rows if isinstance(rows, Denied) else rows.get(rpc, _UNKNOWN)


def label_of(service: str, rpc: str) -> str:
    """The RPC's name if the table has it, for metrics, whose labels are bounded."""
    rows = SERVICES.get(service, _UNKNOWN)
    return rpc if not isinstance(rows, Denied) and rpc in rows else "other"


def admit(rpc: str, row: Allowed, request: Message, bounds: Bounds) -> Message:
    """A copy of the request that stays inside the bounds.

    A copy, because the caller keeps the request and could change it between check and sending.

    Args:
        rpc: Name of the RPC, for the error.
        row: Its row in the table.
        request: What the caller wants to send.
        bounds: The limits to keep.

    Raises:
        ForbiddenOperationError: The request leaves the bounds.
        InvalidIdError: An ID in it has a control character.
        InvalidQueryError: Its query cannot be held inside the tenant.
    """
    if type(request) is not row.request:
        refuse(rpc, bounds.tenant, f"it takes {row.request.__name__}, not {type(request).__name__}")
    copy = row.request()
    copy.CopyFrom(request)
    copy.DiscardUnknownFields()
    if copy != request:
        where = next(_unknown_fields(request), "a field")
        refuse(rpc, bounds.tenant, f"{where} is unknown to this version of the SDK")
    checker = _CHECKERS[row.request.DESCRIPTOR.full_name]
    if checker is not None:
        try:
            checker.check(copy, bounds)
        except OutOfBoundsError as error:
            refuse(rpc, bounds.tenant, f"{error.field}: {error.problem}")
    return copy


def plain_metadata(
    rpc: str, tenant: str | None, metadata: Mapping[str, str | bytes]
) -> dict[str, str | bytes]:
    """A copy of a call's own metadata, which says nothing about who calls or from where.

    Raises:
        ForbiddenOperationError: It has a key that the server or the connection decides by.
    """
    copy = dict(metadata)
    for key in copy:
        if str.lower(key).startswith(_RESERVED_METADATA):
            problem = f"metadata {key!r} is the connection's: calls may not set it"
            refuse(rpc, tenant, problem)
    return copy


def refuse(rpc: str, tenant: str | None, problem: str) -> NoReturn:
    """Raise the refusal of a call.

    Raises:
        ForbiddenOperationError: Always.
    """
    whose = f"tenant {tenant!r}" if tenant else "a client without tenant"
    msg = f"{rpc} is refused to {whose}: {problem}"
    raise ForbiddenOperationError(msg) from None


def _unknown_fields(message: Message, path: str = "") -> Iterator[str]:
    """Paths of the fields that the message's type does not have."""
    unknown = UnknownFieldSet(message)
    for index in range(len(unknown)):
        yield f"{path}field {unknown[index].field_number}"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        held: Any = value
        if field.message_type.GetOptions().map_entry:
            held = [v for v in value.values() if isinstance(v, Message)]
        elif not field.is_repeated:
            held = [value]
        for item in held:
            yield from _unknown_fields(item, f"{path}{field.name}.")
