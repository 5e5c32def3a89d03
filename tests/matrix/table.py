"""All rows of the tenancy matrix, by group."""

from collections.abc import Mapping, Sequence
from typing import Final

from tests.matrix.activity_requests import ACTIVITY_REQUESTS
from tests.matrix.asynchronous import ASYNCHRONOUS
from tests.matrix.by_id import BY_ID
from tests.matrix.chains import CHAINS
from tests.matrix.command_rows import COMMANDS
from tests.matrix.lists import LISTS
from tests.matrix.messages import MESSAGES
from tests.matrix.model import Row
from tests.matrix.operations import OPERATIONS
from tests.matrix.schedule_rows import SCHEDULES
from tests.matrix.settings_rows import SETTINGS
from tests.matrix.standalone import STANDALONE
from tests.matrix.starts import STARTS
from tests.matrix.task_clients import TASK_CLIENTS

GROUPS: Final[Mapping[str, Sequence[Row]]] = {
    "Starting workflows": STARTS,
    "Messages to workflows": MESSAGES,
    "Calls by ID": BY_ID,
    "Schedules": SCHEDULES,
    "Lists and counts": LISTS,
    "From inside a workflow": COMMANDS,
    "Later runs": CHAINS,
    "Nexus": OPERATIONS,
    "Clients that tasks are given": TASK_CLIENTS,
    "Other settings": SETTINGS,
    "Standalone activities": STANDALONE,
    "Heartbeats and activities that are completed elsewhere": ASYNCHRONOUS,
    "Raw requests about activities": ACTIVITY_REQUESTS,
}
"""The rows by the heading that they stand under."""

OF_CLIENTS: Final = frozenset(
    {
        "Starting workflows",
        "Messages to workflows",
        "Calls by ID",
        "Lists and counts",
        "Schedules",
        "Other settings",
    }
)
"""Headings whose rows run in one file of tests; the others run in another, beside it."""

ROWS: Final[Sequence[Row]] = [row for rows in GROUPS.values() for row in rows]

_OPERATORS: Final = "refused to tenants; a test calls each of them"

EXEMPT: Final[Mapping[str, str]] = {
    "client.get_worker_build_id_compatibility client.get_worker_task_reachability"
    " client.update_worker_build_id_compatibility": (
        f"worker versions belong to operators: {_OPERATORS}"
    ),
    "client.start_nexus_operation client.describe_nexus_operation client.cancel_nexus_operation"
    " client.terminate_nexus_operation client.get_nexus_operation_result"
    " client.list_nexus_operations client.count_nexus_operations": (
        f"an endpoint may lead anywhere, and no field carries the tenant: {_OPERATORS}"
    ),
    "outbound.start_system_nexus_operation outbound.start_signal_with_start_workflow": (
        "the server's own operations cannot be confined to a tenant: they fail the workflow"
    ),
    "outbound.info": "it makes no request",
}
"""Methods of the SDK's interceptors without a row, with the reason."""

EXEMPT_RPCS: Final[Mapping[str, str]] = {
    "describe_namespace get_cluster_info get_system_info": (
        "they show no tenant's work, and of a namespace only what clients need"
    ),
}
"""RPCs that the guard admits without a row, with the reason."""
