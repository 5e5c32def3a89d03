"""Snapshots of values: bounded in size and time, taken where the value lives.

Arguments and results are captured on the thread that runs the workflow, which the SDK's deadlock
detector gives two seconds. So no more of a value is visited than may be sent, nothing is converted
or validated, and properties do not run. Later changes of the value do not change its snapshot.
"""

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_MAX_DEPTH: Final = 20
# JavaScript, and so Langfuse's pages, round larger integers.
_SAFE_INTEGER: Final = 2**53
# Writing an integer in decimal takes time that is quadratic in its length.
_MAX_INTEGER_BITS: Final = 1024
# Bounded, because causes can form a cycle.
_MAX_CAUSES: Final = 8
# Of the built-in types, because a subclass may override these methods with its own code.
_ITEMS: Final[Callable[[Any], Iterable[tuple[object, object]]]] = cast("Any", dict).items
_SEQUENCES: Final[Mapping[type, Callable[[Any], Iterable[object]]]] = {
    kind: cast("Any", kind).__iter__ for kind in (list, tuple, set, frozenset)
}
_SHOWN_AS_TEXT: Final = (date, datetime, time, timedelta, Decimal, PurePath, UUID)
_NOT_BY_ATTRIBUTES: Final[frozenset[type[Any]]] = frozenset(
    {bool, int, float, str, bytes, bytearray, dict, enum.Enum, BaseException}
    | {*_SEQUENCES, *_SHOWN_AS_TEXT}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureLimits:
    """Limits of captured arguments and results; `max_bytes` counts characters of one snapshot."""

    input: bool = True
    output: bool = True
    max_bytes: int = 32 * 1024


@dataclass(frozen=True, slots=True)
class Captured:
    """Snapshot of a value as JSON; `is_cut` means that a part of it was left out."""

    value: Json
    is_cut: bool = False


def capture(value: object, *, max_bytes: int) -> Captured:
    """Take a snapshot of a value.

    Args:
        value: Anything; objects are shown by their public attributes.
        max_bytes: Its size in characters of texts and numbers; as JSON it may be larger.
    """
    snapshotter = _Snapshotter(max_bytes)
    return Captured(snapshotter.show(value, 0), snapshotter.is_cut)


def capture_error(error: BaseException, *, max_bytes: int) -> Captured:
    """Take a snapshot of an error and its causes: types and messages in one text, no traceback.

    Args:
        error: The error.
        max_bytes: Length of the text, in characters.
    """
    shown: list[str] = []
    cause: BaseException | None = error
    # A process pool adds a cause of this type, whose text is the child's traceback.
    while (
        cause is not None
        and len(shown) < _MAX_CAUSES
        and type(cause).__name__ != "_RemoteTraceback"
    ):
        shown.append(_one_error(cause, max_bytes))
        cause = cause.__cause__
    # No traceback: it would show the host's paths, and differ from one worker to the next.
    text = "; caused by ".join(shown)
    return Captured(text[:max_bytes], len(text) > max_bytes)


def _one_error(error: BaseException, max_length: int) -> str:
    name = type(error).__name__
    try:
        message = str(error)[: max_length + 1]
        # The message of an error from another process begins with the type that it had there.
        kind = getattr(error, "type", None)
        is_named = isinstance(kind, str) and message.startswith(kind)
    except Exception:  # noqa: BLE001 - __str__ may raise anything
        return name
    return message if is_named else f"{name}: {message}" if message else name


class _Snapshotter:
    """Walks a value until the budget of characters is used up."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self.is_cut = False

    def show(self, value: object, depth: int) -> Json:
        # Each value costs one, so that a long list of empty lists comes to an end, too.
        self._left -= 1
        # In the sandbox each `isinstance` costs as much as ten calls: the usual types do without.
        kind = type(value)
        if kind is str:
            return self._text(cast("str", value))
        if (
            value is None
            or kind is bool
            or (kind is int and abs(cast("int", value)) < _SAFE_INTEGER)
        ):
            return cast("Json", value)
        try:
            if depth < _MAX_DEPTH:
                if kind is list:
                    return self._items(cast("list[object]", value), depth)
                if kind is dict:
                    return self._pairs(cast("dict[object, object]", value).items(), depth)
                # Mocks and proxies that pretend to be of another class take the longer way below.
                if value.__class__ is kind and _NOT_BY_ATTRIBUTES.isdisjoint(kind.__mro__):
                    return self._object(value, depth)
            return self._shown(value, depth)
        except Exception:  # noqa: BLE001 - no value may fail the work
            return self._name(value)

    def _shown(self, value: object, depth: int) -> Json:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self.show(value.value, depth + 1) if depth < _MAX_DEPTH else self._name(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int | float):
            return self._number(value)
        if isinstance(value, bytes | bytearray):
            return self._text(f"<{len(value)} bytes>")
        if isinstance(value, _SHOWN_AS_TEXT):
            return self._text(str(value))
        if isinstance(value, BaseException):
            return self._text(_one_error(value, max(self._left, 0)))
        if depth >= _MAX_DEPTH:
            return self._name(value)
        return self._container(value, depth)

    def _container(self, value: object, depth: int) -> Json:
        if isinstance(value, dict):
            return self._pairs(_ITEMS(value), depth)
        for kind, items_of in _SEQUENCES.items():
            if isinstance(value, kind):
                return self._items(items_of(value), depth)
        return self._object(value, depth)

    def _items(self, items: Iterable[object], depth: int) -> list[Json]:
        shown: list[Json] = []
        for item in items:
            if self._is_used_up():
                break
            shown.append(self.show(item, depth + 1))
        return shown

    def _pairs(self, pairs: Iterable[tuple[object, object]], depth: int) -> dict[str, Json]:
        shown: dict[str, Json] = {}
        for key, value in pairs:
            if self._is_used_up():
                break
            is_text = type(key) is str or isinstance(key, str)
            # At full depth, so that a key that is an object is not unfolded.
            name = self._text(cast("str", key)) if is_text else str(self.show(key, _MAX_DEPTH))
            shown[name] = self.show(value, depth + 1)
        return shown

    def _object(self, value: object, depth: int) -> Json:
        if is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in fields(value)]
            pairs = [(name, _stored(value, name)) for name in names]
        elif not isinstance(value, type) and isinstance(stored := _stored(value, "__dict__"), dict):
            public = cast("dict[object, object]", stored).items()
            pairs = [(k, v) for k, v in public if isinstance(k, str) and not k.startswith("_")]
        else:
            pairs = []
        return self._pairs(pairs, depth) if pairs else self._name(value)

    def _text(self, value: str) -> str:
        room = max(self._left, 0)
        self._left -= len(value)
        if len(value) > room:
            self.is_cut = True
            # Of `str` itself, because a subclass may override it.
            return str.__getitem__(value, slice(room))
        return str.__str__(value)

    def _number(self, value: float) -> Json:
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if int.bit_length(value) > _MAX_INTEGER_BITS:
            return f"<integer of {int.bit_length(value)} bits>"
        return int(value) if abs(value) < _SAFE_INTEGER else str(int(value))

    def _name(self, value: object) -> str:
        return self._text(f"<{type(value).__name__}>")

    def _is_used_up(self) -> bool:
        if self._left > 0:
            return False
        self.is_cut = True
        return True


def _stored(value: object, name: str) -> object:
    """Read an attribute as it is stored: properties and `__getattr__` do not run."""
    try:
        return object.__getattribute__(value, name)
    except Exception:  # noqa: BLE001 - a descriptor may raise anything
        return None
