"""Lets a request through, in a copy of its own, or refuses it with what is wrong where."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from orkestra.errors import ForbiddenOperationError
from orkestra.temporal.guard.bounds import Bounds, OutOfBoundsError
from orkestra.temporal.guard.checker import checkers_of
from orkestra.temporal.guard.shape import Allowed, Denied
from orkestra.temporal.guard.table import SERVICES, SHAPES

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
