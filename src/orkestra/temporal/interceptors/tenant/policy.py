"""What a tenant looks like on Temporal's calls: one method for each place it is written or read.

Pure: it runs in the workflow sandbox as well as in clients. It never raises SDK errors; callers
turn `TenantMismatchError` into what their side of the call needs.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributes,
    TypedSearchAttributes,
)

from orkestra.config import TenancySettings
from orkestra.errors import TenantMismatchError
from orkestra.tenancy import is_tenant_id, owner_of

Headers = Mapping[str, Payload]
"""Temporal headers as the SDK has them."""

_NORMAL_PRIORITY: Final = 3
"""The server's default priority key; smaller numbers go first and are not for tenants to take."""


class TenantPolicy:
    """Writes a tenant into calls and reads it back, under the configured names."""

    def __init__(self, settings: TenancySettings) -> None:
        """Use the names and switches of the settings."""
        self.settings = settings
        self.header = settings.header
        self.attribute = SearchAttributeKey.for_keyword(settings.search_attribute)

    @property
    def is_required(self) -> bool:
        """Whether work without a tenant is refused."""
        return self.settings.mode == "required"

    def stamp_headers(self, headers: Headers, tenant: str) -> Headers:
        """The headers with the tenant, as the default converter of every SDK reads it.

        The payload is a new object each time: an encoding codec rewrites header payloads in place.
        """
        present = self.read_header(headers)
        if present is not None and present != tenant:
            raise _contradiction(f"header {self.header!r}", present, tenant)
        payload = Payload(metadata={"encoding": b"json/plain"}, data=f'"{tenant}"'.encode())
        return {**headers, self.header: payload}

    def read_header(self, headers: Headers) -> str | None:
        """The tenant in the headers, or None where there is none.

        Raises:
            TenantMismatchError: There is one, but it cannot be read.
        """
        payload = headers.get(self.header)
        return None if payload is None else _read(payload, f"header {self.header!r}")

    def read_memo(self, memo: Mapping[str, Payload]) -> str | None:
        """The tenant in a raw memo, or None where there is none.

        Raises:
            TenantMismatchError: There is one, but it cannot be read.
        """
        payload = memo.get(self.header)
        return None if payload is None else _read(payload, f"memo {self.header!r}")

    def read_run(self, info: workflow.Info) -> str | None:
        """The tenant that a run was started for, or None where it was started for none.

        The header of the start event decides, as nothing can change it; without one, the memo.

        Raises:
            TenantMismatchError: Header, memo, search attribute and ID disagree.
        """
        header = self.read_header(info.headers)
        memo = self.read_memo(info.raw_memo)
        tenant = header or memo
        if tenant is None:
            return None
        attribute = info.typed_search_attributes.get(self.attribute)
        for where, found in (("memo", memo), ("search attribute", attribute)):
            if found is not None and found != tenant:
                raise _contradiction(where, found, tenant)
        self.check_owner(tenant, info.workflow_id)
        return tenant

    def stamp_memo(self, memo: Mapping[str, Any] | None, tenant: str) -> Mapping[str, Any] | None:
        """The memo with the tenant where the settings ask for it."""
        present = None if memo is None else memo.get(self.header)
        if isinstance(present, Payload):
            present = _read(present, f"memo {self.header!r}")
        if present is not None and present != tenant:
            raise _contradiction(f"memo {self.header!r}", present, tenant)
        return {**(memo or {}), self.header: tenant} if self.settings.memo else memo

    def stamp_attributes(
        self, attributes: TypedSearchAttributes | SearchAttributes | None, tenant: str
    ) -> TypedSearchAttributes | SearchAttributes:
        """The search attributes with the tenant, typed or untyped as they were given."""
        if attributes is None or isinstance(attributes, TypedSearchAttributes):
            return self.stamp_typed(attributes or TypedSearchAttributes.empty, tenant)
        name = self.attribute.name
        self._check_attribute(list(attributes.get(name, ())), tenant)
        return {**attributes, name: [tenant]}

    def stamp_typed(self, attributes: TypedSearchAttributes, tenant: str) -> TypedSearchAttributes:
        """The typed search attributes with the tenant."""
        name = self.attribute.name
        self._check_attribute([pair.value for pair in attributes if pair.key.name == name], tenant)
        return attributes.updated(SearchAttributePair(self.attribute, tenant))

    def _check_attribute(self, present: list[Any], tenant: str) -> None:
        if present not in ([], [tenant]):
            where = f"search attribute {self.attribute.name!r}"
            raise _contradiction(where, present[0], tenant)

    def fair(
        self, priority: Priority, tenant: str, *, inherited: Priority | None = None
    ) -> Priority:
        """The priority with the tenant as fairness key and no more urgency than normal.

        Args:
            priority: What the caller set.
            tenant: The fairness key to be.
            inherited: Priority of the workflow that schedules the work, whose fields the server
                fills in where `priority` has none; None for work that no workflow schedules.
        """
        if not self.settings.fairness:
            return priority
        key = priority.priority_key
        urgency = None if key is None else max(key, _NORMAL_PRIORITY)
        is_inherited = inherited is not None and inherited.fairness_key == tenant
        if is_inherited and priority.fairness_key is None and priority.fairness_weight is None:
            return (
                priority if urgency == key else dataclasses.replace(priority, priority_key=urgency)
            )
        return Priority(priority_key=urgency, fairness_key=tenant)

    def check_owner(self, tenant: str, server_id: str) -> None:
        """Refuse an ID whose prefix names another tenant.

        Raises:
            TenantMismatchError: It does.
        """
        owner = owner_of(server_id)
        if owner is not None and owner != tenant:
            raise _contradiction("ID", owner, tenant)


def _read(payload: Payload, where: str) -> str:
    try:
        value = json.loads(payload.data) if payload.metadata["encoding"] == b"json/plain" else None
    except (KeyError, ValueError):
        value = None
    if not is_tenant_id(value):
        msg = f"the tenant in {where} cannot be read: it must be a tenant ID in plain JSON"
        raise TenantMismatchError(msg)
    return value


def _contradiction(where: str, found: object, tenant: str) -> TenantMismatchError:
    return TenantMismatchError(
        f"{where} names tenant {found!r}, but the call acts for {tenant!r}: remove one of them"
    )
