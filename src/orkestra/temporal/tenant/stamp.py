"""What a tenant looks like on Temporal's calls: one method for each place it is written or read.

Pure: it runs in the workflow sandbox as well as in clients. It never raises SDK errors; callers
turn `TenantMismatchError` into what their side of the call needs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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
from orkestra.directory import TenantLabels
from orkestra.errors import TenantMismatchError
from orkestra.tenancy import PLAIN_JSON, owner_of, scope_id, tenant_as_json, tenant_in_payload

Headers = Mapping[str, Payload]
"""Temporal headers as the SDK has them."""


@dataclass(frozen=True)
class TenantPolicy:
    """Writes a tenant into calls and reads it back, under the configured names.

    Frozen, because one is shared by all tenants of a worker, within reach of their code.

    Attributes:
        settings: Names and mode.
        labels: What is counted under; the default names no tenants.
    """

    settings: TenancySettings
    labels: TenantLabels = field(default_factory=TenantLabels)

    @cached_property
    def header(self) -> str:
        """Name of the Temporal header and memo field of the tenant."""
        return self.settings.header

    @cached_property
    def attribute(self) -> SearchAttributeKey[str]:
        """The search attribute of the tenant."""
        return SearchAttributeKey.for_keyword(self.settings.search_attribute)

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
        payload = Payload(metadata={"encoding": PLAIN_JSON}, data=tenant_as_json(tenant))
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
        given: Any = attributes  # its pairs are untyped in the SDK
        self._check_attribute([pair.value for pair in given if pair.key.name == name], tenant)
        stamped: TypedSearchAttributes = given.updated(SearchAttributePair(self.attribute, tenant))
        return stamped

    def _check_attribute(self, present: list[Any], tenant: str) -> None:
        if present not in ([], [tenant]):
            where = f"search attribute {self.attribute.name!r}"
            raise _contradiction(where, present[0], tenant)

    def fair(
        self, priority: Priority, tenant: str, *, weight: float | None, most_urgent: int
    ) -> Priority:
        """The priority of what a client starts: the tenant as fairness key, its own weight.

        Args:
            priority: What the caller set.
            tenant: The fairness key to be.
            weight: The tenant's share; None means 1.
            most_urgent: The smallest priority key that the tenant may use.
        """
        if not self.settings.fairness:
            return priority
        key = priority.priority_key
        urgency = None if key is None else max(key, most_urgent)
        return Priority(priority_key=urgency, fairness_key=tenant, fairness_weight=weight)

    def fair_inside(self, priority: Priority, tenant: str, inherited: Priority) -> Priority:
        """The priority of what a workflow starts, whose urgency is bounded with its command.

        Args:
            priority: What workflow code set.
            tenant: The fairness key to be.
            inherited: The workflow's own, whose fields the server fills in where `priority` has
                none: the weight, too, which came from the directory.
        """
        is_inherited = inherited.fairness_key == tenant
        is_untouched = priority.fairness_key is None and priority.fairness_weight is None
        if not self.settings.fairness or (is_inherited and is_untouched):
            return priority
        weight = inherited.fairness_weight if is_inherited else None
        return dataclasses.replace(priority, fairness_key=tenant, fairness_weight=weight)

    def scope(self, tenant: str, user_id: str) -> str:
        """The ID on the server of what the tenant calls `user_id`."""
        return user_id if self.has_global_ids else scope_id(tenant, user_id)

    @property
    def has_global_ids(self) -> bool:
        """Whether IDs are as they were given, and say nothing of whose they are."""
        return self.settings.workflow_ids == "global"

    def is_scoped(self, tenant: str | None, server_id: str) -> bool:
        """Whether an ID of the tenant's has its prefix, as what it starts is to have, too."""
        return not self.has_global_ids and tenant is not None and owner_of(server_id) == tenant

    def check_owner(self, tenant: str, server_id: str) -> None:
        """Refuse an ID whose prefix names another tenant; global IDs name none.

        Raises:
            TenantMismatchError: It does.
        """
        owner = None if self.has_global_ids else owner_of(server_id)
        if owner is not None and owner != tenant:
            raise _contradiction("ID", owner, tenant)


def _read(payload: Payload, where: str) -> str:
    tenant = tenant_in_payload(payload)
    if tenant is None:
        msg = f"the tenant in {where} cannot be read: it must be a tenant ID in plain JSON"
        raise TenantMismatchError(msg)
    return tenant


def _contradiction(where: str, found: object, tenant: str) -> TenantMismatchError:
    return TenantMismatchError(
        f"{where} names tenant {found!r}, but the call acts for {tenant!r}: remove one of them"
    )
