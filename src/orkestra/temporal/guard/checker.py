"""Turns shapes into checkers: one for each message type, made once.

A checker looks only at what can be wrong. Where nothing below a field is restricted, the field
costs one look-up; where all fields of a message are free or have rules, they are not enumerated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from orkestra.temporal.guard.bounds import Bounds, OutOfBoundsError
from orkestra.temporal.guard.rules import Rule
from orkestra.temporal.guard.shape import Inside, Shape

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
