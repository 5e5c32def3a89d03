"""The tenant on Temporal's calls: each place where it is written or read, with one method each.

Context does not travel by itself (T1 to T12): headers, memo, search attributes and fairness keys
each have their own rules for which call inherits them. So every call is stamped in every place
that it has, and a place that names another tenant already is an error.

Pure: it runs in the workflow sandbox as well as in clients. It raises `TenantMismatchError` and
never an SDK error; callers turn it into what their side of the call needs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from orkestra.directory import TenantLabels, TenantRecord
from orkestra.errors import TenantMismatchError
from orkestra.tenancy import (
    PLAIN_JSON,
    is_tenant_id,
    owner_of,
    scope_id,
    tenant_as_json,
    tenant_in_payload,
)

Headers = Mapping[str, Payload]
"""Temporal headers as the SDK has them."""


@dataclass(frozen=True)
class TenantCodec:
    """Writes a tenant into calls and reads it back, under the configured names.

    Frozen, because one is shared by all tenants of a worker, within reach of their code.

    Attributes:
        settings: Names and mode.
        labels: Metric labels; the default names no tenants.
        header: Name of the Temporal header and memo field.
        nexus_header: Name of the Nexus header; those arrive in lower case (T7).
        attribute: The search attribute.
        is_required: True if work without a tenant is refused.
        has_global_ids: True if IDs stay as they are given, without a tenant's prefix.
    """

    settings: TenancySettings
    labels: TenantLabels = field(default_factory=TenantLabels)
    header: str = field(init=False)
    nexus_header: str = field(init=False)
    attribute: SearchAttributeKey[str] = field(init=False)
    is_required: bool = field(init=False)
    has_global_ids: bool = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        vars(self).update(  # past the frozen dataclass
            header=settings.header,
            nexus_header=settings.header.lower(),
            attribute=SearchAttributeKey.for_keyword(settings.search_attribute),
            is_required=settings.mode == "required",
            has_global_ids=settings.workflow_ids == "global",
        )

    def stamp_headers(self, headers: Headers, tenant: str) -> Headers:
        """Add the tenant to headers.

        The payload is a new object each time: an encoding codec rewrites header payloads in place,
        and would encode a shared one twice (T5).
        """
        if self.header in headers and (present := self.read_header(headers)) != tenant:
            raise _contradiction(f"header {self.header!r}", present, tenant)
        payload = Payload(metadata={"encoding": PLAIN_JSON}, data=tenant_as_json(tenant))
        return {**headers, self.header: payload}

    def read_header(self, headers: Headers) -> str | None:
        """The tenant in the headers, or None where there is none; raises if it is unreadable."""
        payload = headers.get(self.header)
        return None if payload is None else _read(payload, f"header {self.header!r}")

    def read_memo(self, memo: Mapping[str, Payload]) -> str | None:
        """The tenant in a raw memo, or None where there is none; raises if it is unreadable."""
        payload = memo.get(self.header)
        return None if payload is None else _read(payload, f"memo {self.header!r}")

    def read_run(self, info: workflow.Info) -> str | None:
        """The tenant that a run was started for, or None where it was started for none.

        The header of the start event decides, as nothing can change it (B10); without one, the
        memo. Raises if header, memo, search attribute and ID disagree.
        """
        header = self.read_header(info.headers)
        memo = self.read_memo(info.raw_memo)
        tenant = header or memo
        # An attribute or a prefix alone proves nothing: anyone can have written them (B4).
        if tenant is None:
            return None
        attribute = info.typed_search_attributes.get(self.attribute)
        for where, found in (("memo", memo), ("search attribute", attribute)):
            if found is not None and found != tenant:
                raise _contradiction(where, found, tenant)
        self.check_owner(tenant, info.workflow_id)
        return tenant

    def message_problem(self, headers: Headers, tenant: str | None) -> str | None:
        """Reason to refuse a message to a run of the tenant, or None."""
        try:
            sender = self.read_header(headers)
        except TenantMismatchError as error:
            return str(error)
        if sender == tenant:
            return None
        if sender is None:
            return "it has no tenant" if self.is_required else None
        return "it comes from another tenant"

    def stamp_nexus_headers(self, headers: Mapping[str, str] | None, tenant: str) -> dict[str, str]:
        """Add the tenant to a Nexus operation's headers, in place of any case of its name (B12)."""
        given = headers or {}
        others = {name: v for name, v in given.items() if name.lower() != self.nexus_header}
        return {**others, self.nexus_header: tenant}

    def read_nexus_headers(self, headers: Mapping[str, str]) -> str | None:
        """The tenant in a Nexus operation's headers; None where it is missing and may be."""
        found = {value for name, value in headers.items() if name.lower() == self.nexus_header}
        if not found and not self.is_required:
            return None
        # Two spellings with two values: neither can be trusted (B12).
        if len(found) != 1 or not is_tenant_id(tenant := found.pop()):
            msg = f"it must carry one header {self.nexus_header!r} with a tenant ID"
            raise TenantMismatchError(msg)
        return tenant

    def stamp_memo(self, memo: Mapping[str, Any] | None, tenant: str) -> Mapping[str, Any] | None:
        """Add the tenant to a memo where the settings ask for it."""
        present = None if memo is None else memo.get(self.header)
        if isinstance(present, Payload):  # of a described schedule; other memos have plain values
            present = _read(present, f"memo {self.header!r}")
        if present is not None and present != tenant:
            raise _contradiction(f"memo {self.header!r}", present, tenant)
        return {**(memo or {}), self.header: tenant} if self.settings.memo else memo

    def stamp_attributes(
        self, attributes: TypedSearchAttributes | SearchAttributes | None, tenant: str
    ) -> TypedSearchAttributes | SearchAttributes:
        """Add the tenant to search attributes, typed or untyped as they were given."""
        if attributes is None or isinstance(attributes, TypedSearchAttributes):
            return self.stamp_typed(attributes or TypedSearchAttributes.empty, tenant)
        name = self.attribute.name
        present = list(attributes.get(name, ()))
        if present not in ([], [tenant]):
            raise _contradiction(f"search attribute {name!r}", present[0], tenant)
        return {**attributes, name: [tenant]}

    def stamp_typed(self, attributes: TypedSearchAttributes, tenant: str) -> TypedSearchAttributes:
        """Add the tenant to typed search attributes."""
        name = self.attribute.name
        given: Any = attributes  # its pairs are untyped in the SDK
        for pair in given:
            if pair.key.name == name and pair.value != tenant:
                raise _contradiction(f"search attribute {name!r}", pair.value, tenant)
        stamped: TypedSearchAttributes = given.updated(SearchAttributePair(self.attribute, tenant))
        return stamped

    def fair(self, priority: Priority, tenant: str, record: TenantRecord) -> Priority:
        """The priority of what a client starts: the tenant as fairness key, its weight (B13)."""
        if not self.settings.fairness:
            return priority
        # A lower number is more urgent; None is the server's default, normal (B13).
        key = priority.priority_key
        return Priority(
            priority_key=None if key is None else max(key, record.most_urgent_priority),
            fairness_key=tenant,
            fairness_weight=record.fairness_weight,
        )

    def fair_inside(self, priority: Priority, tenant: str, inherited: Priority) -> Priority:
        """The priority of what a workflow starts, whose urgency is bounded with its command.

        The server fills in what it lacks from the workflow's own (T2): the weight, too, which came
        from the directory.
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

    def is_scoped(self, tenant: str | None, server_id: str) -> bool:
        """Return True if the tenant's ID has its prefix; then what it starts must have it, too."""
        return not self.has_global_ids and tenant is not None and owner_of(server_id) == tenant

    def check_owner(self, tenant: str, server_id: str) -> None:
        """Raise if an ID's prefix names another tenant; global IDs name none."""
        owner = None if self.has_global_ids else owner_of(server_id)
        if owner is not None and owner != tenant:
            raise _contradiction("ID", owner, tenant)


def _read(payload: Payload, where: str) -> str:
    tenant = tenant_in_payload(payload.metadata, payload.data)
    if tenant is None:
        msg = f"the tenant in {where} cannot be read: it must be a tenant ID in plain JSON"
        raise TenantMismatchError(msg)
    return tenant


def _contradiction(where: str, found: object, tenant: str) -> TenantMismatchError:
    return TenantMismatchError(
        f"{where} names tenant {found!r}, but the call acts for {tenant!r}: remove one of them"
    )
