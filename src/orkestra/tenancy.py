"""The tenant of the running code, its IDs, and the one spelling of it on the wire.

Workflow code imports this module inside the sandbox, so it needs the standard library only. One
ContextVar holds the tenant: the interceptors set it in workflows, handlers and activities,
`tenant_scope()` sets it in client code.
"""

import json
import re
import unicodedata
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Final, TypeGuard, final

from orkestra.errors import (
    InvalidIdError,
    InvalidTenantError,
    TenantMismatchError,
    TenantRequiredError,
)

MAX_TENANT_LENGTH: Final = 63
"""A tenant ID is also a fairness key, which the server limits to 64 bytes (T25)."""

MAX_ID_BYTES: Final = 900
"""The server allows 1000 bytes for an ID; the tenant and the server's suffixes need the rest."""

_TENANT_PATTERN: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_TENANT_LENGTH - 1}}}")
_RESERVED_PREFIX: Final = "temporal"
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs"})
_SEPARATOR: Final = ":"

_current: ContextVar[str | None] = ContextVar("orkestra_tenant", default=None)


@final
class AllTenants:
    """Type of `ALL_TENANTS`, the operator's scope."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Name of the constant, for logs and errors."""
        return "ALL_TENANTS"


ALL_TENANTS: Final = AllTenants()
"""Pass this object as `tenant` to make a client that acts across tenants; no string does it."""


def current_tenant() -> str | None:
    """The tenant that the running code acts for, or None outside any tenant.

    Works in client code inside `tenant_scope()`, in workflows and all their handlers, and in
    activities of every kind.
    """
    return _current.get()


@contextmanager
def tenant_scope(tenant: str) -> Generator[str]:
    """Act for a tenant in the code below; entering the same tenant again is allowed.

    Args:
        tenant: A well-formed tenant ID.

    Yields:
        The tenant.

    Raises:
        InvalidTenantError: The tenant is malformed.
        TenantMismatchError: The code already acts for another tenant, for instance in a workflow
            or an activity of it.

    Example:
        ```python
        with tenant_scope("acme"):
            await client.start_workflow(Order.run, order, id="order-42", task_queue="orders")
        ```
    """
    tenant = check_tenant_id(tenant)
    outer = _current.get()
    if outer is not None and outer != tenant:  # B8
        msg = f"cannot enter tenant {tenant!r}: this code already acts for {outer!r}"
        raise TenantMismatchError(msg)
    token = _current.set(tenant)
    try:
        yield tenant
    finally:
        _current.reset(token)


def act_for(tenant: str | None) -> None:
    """Set the tenant of the running task for as long as its context lives.

    For the interceptors, whose handlers each run in a task of their own. There is nothing to
    reset, and an evicted workflow's coroutines are closed outside the context they ran in.

    Args:
        tenant: A checked tenant ID, or None.
    """
    _current.set(tenant)


def acting_tenant(call: str, bound: str | AllTenants | None, *, is_required: bool) -> str | None:
    """Resolve the tenant that a client's call acts for; None where it acts for none.

    Args:
        call: Name of the call, for the error.
        bound: The tenant that the client is bound to.
        is_required: True if the call needs a tenant; an operator's never does.

    Raises:
        TenantMismatchError: The client is bound to one tenant and the code acts for another.
        TenantRequiredError: There is no tenant, and the call needs one.
    """
    running = _current.get()
    if isinstance(bound, str):
        if running is not None and running != bound:
            msg = f"{call}: the client is bound to {bound!r}, this code acts for {running!r}"
            raise TenantMismatchError(msg)
        return bound
    if running is None and bound is None and is_required:
        msg = (
            f"{call} needs a tenant: use a client made with tenant=..., or tenant_scope(...);"
            " operators use tenant=ALL_TENANTS"
        )
        raise TenantRequiredError(msg)
    return running


def is_tenant_id(value: object) -> TypeGuard[str]:
    """Return True if the value is a well-formed tenant ID."""
    return (
        isinstance(value, str)
        and _TENANT_PATTERN.fullmatch(value) is not None
        and not value.startswith(_RESERVED_PREFIX)
    )


def check_tenant_id(value: object) -> str:
    """Return the value if it is a well-formed tenant ID.

    Args:
        value: 1 to 63 lower-case ASCII characters `[a-z0-9][a-z0-9._-]*`, not beginning with
            `temporal` (the server's own workflow IDs do: B4).

    Returns:
        The same value, as a plain `str`: a subclass could compare itself equal to any tenant.

    Raises:
        InvalidTenantError: It is anything else.
    """
    plain = str.__str__(value) if isinstance(value, str) else value
    if not is_tenant_id(plain):
        msg = (
            f"tenant {value!r} is malformed: use 1 to {MAX_TENANT_LENGTH} of a-z, 0-9, '.', '_'"
            f" and '-', starting with a letter or digit and not with {_RESERVED_PREFIX!r}"
        )
        raise InvalidTenantError(msg)
    return plain


def owner_of(scoped_id: str) -> str | None:
    """The tenant that the prefix of an ID on the server names, or None where it names none."""
    prefix, separator, _ = scoped_id.partition(_SEPARATOR)
    return prefix if separator and is_tenant_id(prefix) else None


def scope_id(tenant: str, user_id: str) -> str:
    """The ID on the server of what the tenant calls `user_id`: `acme:order-42`.

    An ID that already starts with the tenant's own prefix is returned as it is.
    """
    prefix = tenant + _SEPARATOR
    return user_id if user_id.startswith(prefix) else prefix + user_id


def check_id(value: str) -> str:
    """Return a workflow, schedule or activity ID if people and logs can read it safely.

    Args:
        value: 1 to 900 UTF-8 bytes without control, format or surrogate characters; the server
            itself would take newlines and terminal escapes (B24).

    Returns:
        The same value.

    Raises:
        InvalidIdError: It is empty, too long or has such a character.
    """
    if value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_BYTES:
        return value
    if any(unicodedata.category(char) in _UNPRINTABLE for char in value):
        msg = f"ID {value!r} has a control, format or surrogate character: remove it"
        raise InvalidIdError(msg)
    if not 0 < len(value.encode()) <= MAX_ID_BYTES:
        msg = f"ID {value[:80]!r} must have 1 to {MAX_ID_BYTES} UTF-8 bytes"
        raise InvalidIdError(msg)
    return value


PLAIN_JSON: Final = b"json/plain"
"""Encoding of a tenant's payload, which the default converter of every SDK reads."""

_MAX_JSON_BYTES: Final = 6 * MAX_TENANT_LENGTH + 2
"""Length of a tenant ID in JSON, with every character of it escaped."""


def tenant_as_json(tenant: str) -> bytes:
    """The tenant as the data of a header's, memo's or search attribute's payload."""
    return b'"%b"' % tenant.encode()


def tenant_in_payload(metadata: Mapping[str, bytes], data: bytes) -> str | None:
    """The tenant that a header's or memo's payload names, or None where it cannot be read."""
    is_plain = len(data) <= _MAX_JSON_BYTES and metadata.get("encoding") == PLAIN_JSON
    return _tenant_in_json(data) if is_plain else None


@lru_cache(maxsize=1024)
def _tenant_in_json(data: bytes) -> str | None:
    """Parse once what every task of a run and every run of a tenant carries."""
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if is_tenant_id(value) else None
