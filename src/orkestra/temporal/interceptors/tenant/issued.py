"""The second look at what a workflow issues, from outside the sandbox.

The interceptors write the tenant into commands, but they live beside the workflow's own code, which
can change what they read. Here the tenant is the one that was read before any of that code ran. It
is the same under replay: what is looked at follows from history and code.
"""

from collections.abc import Mapping
from typing import Final

from temporalio.api.common.v1 import Payload
from temporalio.bridge.proto.workflow_commands import ScheduleNexusOperation, WorkflowCommand

from orkestra.errors import TenantMismatchError
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.tenancy import owner_of

_SYSTEM_ENDPOINTS: Final = "__temporal"
"""How the endpoints begin where the server itself acts, on whatever an operation names."""

_WITH_HEADERS: Final = frozenset(
    {
        "schedule_activity",
        "schedule_local_activity",
        "start_child_workflow_execution",
        "signal_external_workflow_execution",
        "continue_as_new_workflow_execution",
    }
)


class Issued:
    """Holds the commands of one run to its tenant.

    Args:
        policy: Names and mode.
        tenant: The run's tenant.
        namespace: The run's namespace.
        is_scoped: Whether the run's own ID has the tenant's prefix, so that others must, too.
    """

    def __init__(
        self, policy: TenantPolicy, tenant: str, *, namespace: str, is_scoped: bool
    ) -> None:
        self._policy = policy
        self._tenant = tenant
        self._namespace = namespace
        self._is_scoped = is_scoped

    def check(self, command: WorkflowCommand) -> None:
        """Refuse a command that leaves the tenant.

        Raises:
            TenantMismatchError: It does.
        """
        kind = command.WhichOneof("variant")
        if kind in _WITH_HEADERS:
            self._check_headers(getattr(command, kind).headers)
        if kind == "schedule_nexus_operation":
            self._check_operation(command.schedule_nexus_operation)
        elif kind == "start_child_workflow_execution":
            child = command.start_child_workflow_execution
            self._check_target(child.namespace, child.workflow_id)
            self._check_written(child.search_attributes.indexed_fields)
        elif kind == "signal_external_workflow_execution":
            signal = command.signal_external_workflow_execution
            if signal.HasField("workflow_execution"):
                target = signal.workflow_execution
                self._check_target(target.namespace, target.workflow_id)
        elif kind == "continue_as_new_workflow_execution":
            following = command.continue_as_new_workflow_execution
            if following.HasField("search_attributes"):
                self._check_written(following.search_attributes.indexed_fields)

    def _check_headers(self, headers: Mapping[str, Payload]) -> None:
        if self._policy.read_header(headers) != self._tenant:
            raise _left(f"header {self._policy.header!r} is not the workflow's tenant")

    def _check_operation(self, operation: ScheduleNexusOperation) -> None:
        if operation.endpoint.startswith(_SYSTEM_ENDPOINTS):
            raise _left(f"endpoint {operation.endpoint!r} is the server's own")
        ours = self._policy.header.lower()
        found = {key: value for key, value in operation.nexus_header.items() if key.lower() == ours}
        if found != {ours: self._tenant}:
            raise _left(f"header {ours!r} is not the workflow's tenant")

    def _check_target(self, namespace: str, workflow_id: str) -> None:
        if namespace not in ("", self._namespace):
            raise _left(f"it names namespace {namespace!r}")
        if self._is_scoped and owner_of(workflow_id) != self._tenant:
            raise _left(f"it names workflow {workflow_id!r}")

    def _check_written(self, attributes: Mapping[str, Payload]) -> None:
        name = self._policy.attribute.name
        payload = attributes.get(name)
        if payload is None or payload.data not in spellings(self._tenant):
            raise _left(f"search attribute {name!r} is not the workflow's tenant")


def spellings(tenant: str) -> tuple[bytes, bytes]:
    """The tenant as a search attribute's payload may have it: alone, or as a list of one."""
    return f'"{tenant}"'.encode(), f'["{tenant}"]'.encode()


def _left(problem: str) -> TenantMismatchError:
    return TenantMismatchError(
        f"a command of the workflow leaves its tenant: {problem}. Something undid what Orkestra"
        " wrote: leave the workflow's info, headers and event loop alone"
    )
