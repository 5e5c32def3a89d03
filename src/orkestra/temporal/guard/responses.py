"""What is taken out of responses: rows that are not the tenant's, and what concerns operators.

The queries already select the tenant's rows. The second look is for stores that compare loosely
(SQLite's STARTS_WITH ignores case) and for whatever else a query might let through.
"""

import json
import logging
from collections.abc import Callable, MutableSequence
from operator import attrgetter
from typing import Any, Final

from temporalio.api.common.v1 import SearchAttributes
from temporalio.api.namespace.v1 import NamespaceInfo
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse

from orkestra.temporal.guard.bounds import Bounds
from orkestra.temporal.guard.shape import ResponseRule
from orkestra.temporal.visibility import is_own_row

_logger: Final = logging.getLogger("orkestra.temporal.guard")


def own_rows(rows: str, row_id: str) -> ResponseRule:
    """A rule that keeps the tenant's own rows.

    Args:
        rows: Field of the response that holds the rows.
        row_id: Path of the ID in a row.
    """
    all_rows: Callable[[Any], MutableSequence[Any]] = attrgetter(rows)
    id_of: Callable[[Any], str] = attrgetter(row_id)

    def rule(response: Any, bounds: Bounds) -> None:
        found = all_rows(response)
        foreign = [
            index
            for index, row in enumerate(found)
            if not (bounds.has_global_ids or is_own_row(bounds.tenant, id_of(row)))
            or not _is_attributed(row.search_attributes, bounds)
        ]
        if foreign:
            _logger.warning(
                "Left %d row(s) out of a list of %s: they are not the tenant's",
                len(foreign),
                bounds.tenant,
            )
        for index in reversed(foreign):
            del found[index]

    return rule


def _is_attributed(attributes: SearchAttributes, bounds: Bounds) -> bool:
    found = attributes.indexed_fields.get(bounds.attribute)
    if found is None:
        return False
    try:
        value = json.loads(found.data)
    except ValueError:
        return False
    return value in (bounds.tenant, [bounds.tenant])


def namespace_outline(response: DescribeNamespaceResponse, _bounds: Bounds) -> None:
    """Leave what clients need; owner, notes, clusters and attribute names are the operator's."""
    info = response.namespace_info
    outline = DescribeNamespaceResponse(
        namespace_info=NamespaceInfo(
            name=info.name,
            id=info.id,
            state=info.state,
            capabilities=info.capabilities,
            limits=info.limits,
        )
    )
    retention = response.config.workflow_execution_retention_ttl
    outline.config.workflow_execution_retention_ttl.CopyFrom(retention)
    response.CopyFrom(outline)
