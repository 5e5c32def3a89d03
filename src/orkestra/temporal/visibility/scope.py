"""The tenant's scope around a query, and the check of the rows that come back."""

from typing import Literal

from orkestra.temporal.visibility.grammar import parse_query
from orkestra.temporal.visibility.lexer import backquoted
from orkestra.tenancy import check_tenant_id, owner_of

IdField = Literal["WorkflowId", "ScheduleId", "ActivityId"]
"""What a query calls the ID of a workflow, a schedule or a standalone activity."""


def scope_query(
    query: str | None,
    *,
    tenant: str,
    attribute: str,
    id_field: IdField,
    scoped_ids: bool = True,
) -> str:
    """Write a list or count query so that it selects rows of one tenant only.

    On SQLite STARTS_WITH ignores case, and in no store does a query bind what comes back: check
    the rows with `is_own_row`, too.

    Args:
        query: The caller's query; None or a blank one selects all of the tenant's rows.
        tenant: A well-formed tenant ID.
        attribute: Keyword search attribute that holds the tenant.
        id_field: `WorkflowId` for workflows, `ScheduleId` for schedules (the server refuses
            `WorkflowId` there), `ActivityId` for standalone activities.
        scoped_ids: Whether the tenant's IDs begin with `<tenant>:`; without it, the attribute
            alone is the scope.

    Returns:
        A query for the server. Scoping it again for the same tenant selects the same rows.

    Raises:
        InvalidQueryError: The query is not one that the server's language allows, or uses a
            part of it that cannot be held inside the tenant, comments for instance.
        InvalidTenantError: The tenant is malformed.

    Example:
        ```python
        scope_query(
            "WorkflowType = 'Order' OR CloseTime IS NULL ORDER BY StartTime",
            tenant="acme",
            attribute="tenantId",
            id_field="WorkflowId",
        )
        # (`tenantId` = 'acme' AND `WorkflowId` STARTS_WITH 'acme:')
        # AND ( `WorkflowType` = 'Order' OR `CloseTime` IS NULL ) ORDER BY `StartTime`
        ```
    """
    check_tenant_id(tenant)
    own = f"{backquoted(attribute)} = '{tenant}'"
    if scoped_ids:
        own += f" AND `{id_field}` STARTS_WITH '{tenant}:'"
    parts = [f"({own})"]
    # The server puts a schedule query between parentheses of its own, where no clause can stand;
    # since it rewrites ScheduleId, it would drop ORDER BY without a word.
    asked = parse_query(query or "", clauses=id_field != "ScheduleId")
    if asked.condition:
        parts.append(f"AND ({asked.condition})")
    parts.extend(clause for clause in (asked.group_by, asked.order_by) if clause)
    return " ".join(parts)


def is_own_row(tenant: str, row_id: str) -> bool:
    """Whether a row that the server returned belongs to the tenant.

    Args:
        tenant: A well-formed tenant ID.
        row_id: ID of the row's workflow, schedule or activity, as the server has it.
    """
    return owner_of(row_id) == tenant
