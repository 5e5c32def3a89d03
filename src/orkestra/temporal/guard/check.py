"""Checks of requests, prepared from the table once for each message type.

A check looks only at what can be wrong: fields below which nothing is restricted are not read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from orkestra.errors import ForbiddenOperationError
from orkestra.temporal.guard.rules import FieldRejectedError, Rule, TenantScope
from orkestra.temporal.guard.table import (
    MESSAGES,
    NESTED,
    SERVICES,
    Allowed,
    Denied,
    MessageRules,
)

_UNKNOWN: Final = Denied("nothing is decided about it: it is newer than this Orkestra")
_UNDECIDED: Final = "nothing is decided about this field: it is newer than this Orkestra"

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
    """Return the row of an RPC; one that the table does not have is denied.

    Args:
        service: Name that the SDK gives the service, for instance `workflow`.
        rpc: Name in lower case with underscores.
    """
    rows = SERVICES.get(service, _UNKNOWN)
    return rows if isinstance(rows, Denied) else rows.get(rpc, _UNKNOWN)


def metric_label(service: str, rpc: str) -> str:
    """Return the RPC's name if the table has it, because metric labels are bounded."""
    rows = SERVICES.get(service, _UNKNOWN)
    return rpc if not isinstance(rows, Denied) and rpc in rows else "other"


def check_request(rpc: str, row: Allowed | Denied, request: Message, scope: TenantScope) -> Message:
    """Return a checked copy of the request.

    A copy, because the caller keeps the request and could change it between check and sending.

    Args:
        rpc: Name of the RPC, for the error.
        row: Its row in the table.
        request: The caller's request.
        scope: The tenant's scope.

    Raises:
        ForbiddenOperationError: The RPC is denied, or a field breaks its rule.
        InvalidIdError: An ID in it has a control character.
        InvalidQueryError: Its query cannot be limited to the tenant.
    """
    if isinstance(row, Denied):
        refuse(rpc, scope.tenant, row.reason)
    kind = row.message
    if type(request) is not kind:  # the stub sends any message under any RPC's name (B6)
        refuse(rpc, scope.tenant, f"it takes {kind.__name__}, not {type(request).__name__}")
    # The server may know fields that this SDK does not, and act on them.
    copy = kind()
    copy.CopyFrom(request)
    copy.DiscardUnknownFields()
    if copy != request:
        where = next(_unknown_fields(request), "a field")
        refuse(rpc, scope.tenant, f"{where} is unknown to this version of the SDK")
    checker = _CHECKERS[kind.DESCRIPTOR.full_name]
    if checker is not None:
        try:
            checker.check(copy, scope)
        except FieldRejectedError as error:
            refuse(rpc, scope.tenant, f"{error.field}: {error.problem}")
    return copy


def check_metadata(rpc: str, tenant: str | None, metadata: Mapping[str, str | bytes]) -> None:
    """Refuse metadata that says who calls or from where (B18).

    Raises:
        ForbiddenOperationError: It has a key that the server or the connection decides by.
    """
    for key in metadata:
        # The method of `str` itself, because a subclass could override it.
        if str.lower(key).startswith(_RESERVED_METADATA):
            problem = f"metadata {key!r} belongs to the connection: calls may not set it"
            refuse(rpc, tenant, problem)


def refuse(rpc: str, tenant: str | None, problem: str) -> NoReturn:
    """Raise the refusal of a call.

    Raises:
        ForbiddenOperationError: Always.
    """
    to = f"tenant {tenant!r}" if tenant else "a client without tenant"
    msg = f"{rpc} is refused to {to}: {problem}"
    raise ForbiddenOperationError(msg) from None


def _unknown_fields(message: Message, path: str = "") -> Iterator[str]:
    """Yield the paths of fields that the message's type does not have."""
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


class Checker:
    """Check of messages of one type, and of the messages in them."""

    __slots__ = ("_if_set", "_nested", "_rules", "_whole")

    def __init__(self) -> None:
        self._rules: tuple[tuple[str, Rule], ...] = ()
        self._nested: tuple[tuple[str, Checker], ...] = ()
        self._whole: tuple[Rule, ...] = ()
        self._if_set: tuple[tuple[str, bool, _Check], ...] = ()

    def prepare(self, row: MessageRules, checkers: Mapping[str, "Checker | None"]) -> None:
        """Take over a message's rules; apart from the constructor, as messages hold their own type.

        Args:
            row: The rules of the message.
            checkers: The checker of every message by full name; None where all is allowed.
        """
        fields = _fields(row)
        nested = [field for field in fields if row.checked.get(field.name) is NESTED]
        self._nested = tuple(
            (field.name, checker)
            for field in nested
            if (message := field.message_type) and (checker := checkers[message.full_name])
        )
        self._rules = tuple(
            (field.name, cast("Rule", row.checked[field.name]))
            for field in fields
            if field.name in row.checked and field not in nested
        )
        self._whole = row.whole
        self._if_set = tuple(
            (field.name, field.has_presence, check)
            for field in fields
            if field not in nested and (check := _check_of(field, row, checkers))
        )

    def check(self, message: Message, scope: TenantScope) -> None:
        """Check a message, which is changed where a rule returns another value.

        Raises:
            FieldRejectedError: A field breaks its rule.
        """
        name = ""
        try:
            for name, rule in self._rules:
                changed = rule(getattr(message, name), scope)
                if changed is not None:
                    setattr(message, name, changed)
            for name, checker in self._nested:
                checker.check(getattr(message, name), scope)
            # Asked one by one: ListFields() would make a Python object of every field that is set.
            for name, has_presence, check in self._if_set:
                if message.HasField(name) if has_presence else getattr(message, name):
                    check(getattr(message, name), scope)
        except FieldRejectedError as error:
            error.inside(name)
            raise
        for rule in self._whole:  # these name the field themselves
            rule(message, scope)


_Check: TypeAlias = Callable[[Any, TenantScope], None]


def _check_of(
    field: FieldDescriptor, row: MessageRules, checkers: Mapping[str, Checker | None]
) -> _Check | None:
    """Make the check of a field where it is set; None for nothing."""
    if field.name in row.forbidden:
        return _refusing(row.forbidden[field.name])
    if field.name in row.unchecked.split():
        return None
    if field.name not in row.decided:
        return _refuse_undecided
    message = _message_of(field)
    if message is None:
        return None
    if message.full_name not in checkers:
        return _refuse_undecided
    checker = checkers[message.full_name]
    if checker is None:
        return None
    is_map = message is not field.message_type
    return _each(checker, is_map=is_map) if field.is_repeated else checker.check


def _refusing(reason: str) -> _Check:
    def check(_value: object, _scope: TenantScope) -> None:
        raise FieldRejectedError(f"it may not be set: {reason}")

    return check


_refuse_undecided: Final = _refusing(_UNDECIDED)


def _each(checker: Checker, *, is_map: bool) -> _Check:
    def check(values: Any, scope: TenantScope) -> None:
        for key, value in values.items() if is_map else enumerate(values):
            try:
                checker.check(value, scope)
            except FieldRejectedError as error:
                error.inside(f"[{key!r}]")
                raise

    return check


def messages_in(row: MessageRules) -> Iterator[Descriptor]:
    """Yield the messages that allowed fields hold directly, and that need rules."""
    skipped = {*row.forbidden, *row.unchecked.split()}
    for field in _fields(row):
        found = _message_of(field)
        if found is not None and field.name not in skipped:
            yield found


def _is_restricted(name: str) -> bool:
    """True if anything in a message, however deep, has a rule."""
    seen = {name}  # messages hold their own type: a failure its cause
    waiting = [name]
    while waiting:
        row = MESSAGES.get(waiting.pop())
        if row is None or row.checked or row.forbidden or row.whole:
            return True
        if {field.name for field in _fields(row)} - set(row.decided):
            return True
        found = {message.full_name for message in messages_in(row)} - seen
        seen |= found
        waiting.extend(found)
    return False


def _fields(row: MessageRules) -> Sequence[FieldDescriptor]:
    # The descriptors of the C implementation are of another class in the type stubs.
    return cast("Sequence[FieldDescriptor]", row.message.DESCRIPTOR.fields)


def _message_of(field: FieldDescriptor) -> Descriptor | None:
    found = field.message_type
    if found is not None and found.GetOptions().map_entry:
        found = found.fields_by_name["value"].message_type
    return found


def _prepared() -> Mapping[str, Checker | None]:
    checkers = {name: Checker() if _is_restricted(name) else None for name in MESSAGES}
    for name, checker in checkers.items():
        if checker is not None:
            checker.prepare(MESSAGES[name], checkers)
    return checkers


_CHECKERS: Final = _prepared()
