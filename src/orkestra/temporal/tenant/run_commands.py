"""Worker side, around the code of a run: whether it may run, and each command that it issues.

The interceptors write the tenant into commands, but they share a process with the workflow's own
code, which can change what they read. Here the tenant is the one that was read before any of that
code ran, and each command is verified from outside the sandbox.

Some commands have no interceptor (T19). An external cancel is scoped here, as an external signal is
by its interceptor. Writing the tenant's own search attribute or memo field fails the workflow,
which could otherwise vanish from its tenant's lists, or into another's (B10).

All of this follows from history and code, and is the same on replay. What depends on the directory
(task queues, urgency) is decided here as well, but only when a command is new: a replay asks and
changes nothing, because the core does not compare these fields with history, and a refusal left a
marker there.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import WorkflowIdReusePolicy
from temporalio.worker import WorkflowInstanceDetails

from orkestra.directory import Placement
from orkestra.errors import (
    TENANT_MISMATCH,
    TENANT_UNDECIDED,
    DirectoryUnavailableError,
    TenantMismatchError,
    UnknownTenantError,
)
from orkestra.temporal._sdk import (
    NamespacedWorkflowExecution,
    WorkflowActivation,
    WorkflowActivationCompletion,
)
from orkestra.temporal._sdk import workflow_commands as commands
from orkestra.temporal.guard import OwnershipLookup
from orkestra.temporal.tenant.admission import (
    REFUSED_COMMAND,
    Admission,
    LoopBridge,
    PlacementCheck,
    Refusal,
    count_untenanted_jobs,
    recorded_refusal,
)
from orkestra.temporal.tenant.stamp import Headers, TenantCodec
from orkestra.tenancy import act_for, owner_of, scope_id, tenant_as_json


class TenantRunHook:
    """Sets the tenant for all code of a run, lets it begin, and verifies the commands it issues.

    Without a check, as for a replayer, it asks nothing.
    """

    def __init__(
        self,
        codec: TenantCodec,
        details: WorkflowInstanceDetails,
        *,
        check: PlacementCheck | None = None,
        ownership: OwnershipLookup | None = None,
    ) -> None:
        self._codec = codec
        self._details = details
        try:
            self._tenant = codec.read_run(details.info)
            fails_anyway = self._tenant is None and codec.is_required
        except TenantMismatchError:
            self._tenant = None
            fails_anyway = True  # by the interceptors, on whichever worker it is
        self._bridge = None if check is None else LoopBridge(check.placements)
        self._admission: Admission | None = None
        if check is not None and self._bridge is not None and not fails_anyway:
            self._admission = Admission(codec, details, self._tenant, check, self._bridge)
        self._verifier: CommandVerifier | None = None
        if self._tenant is not None:
            self._verifier = CommandVerifier(
                codec, details, self._tenant, bridge=self._bridge, ownership=ownership
            )
        self._is_replaying = True
        self._recorded: Refusal | None = None
        self._never_began: Refusal | None = None

    def before(self, activation: WorkflowActivation) -> WorkflowActivationCompletion | None:
        """Make the tenant current, also for the workflow's constructor, and let the run begin."""
        act_for(self._tenant)
        self._is_replaying = activation.is_replaying
        # An eviction runs no code and needs no permission.
        if any(job.HasField("remove_from_cache") for job in activation.jobs):
            return None
        # A refused run has no code, and queries are all that still comes.
        if self._never_began is not None:
            return self._never_began.query_answers(activation)
        recorded = recorded_refusal(activation)
        if recorded is not None and recorded.marker == REFUSED_COMMAND:
            # It comes with the first activation, and the command with this or a later one.
            self._recorded, recorded = recorded, None
        if self._bridge is not None:
            self._bridge.begin_activation()
            if self._codec.settings.mode == "optional":
                count_untenanted_jobs(
                    activation, self._details, header=self._codec.header, tenant=self._tenant
                )
        refusal = None if self._admission is None else self._admission.refusal(activation)
        refusal = refusal or recorded
        if refusal is None:
            return None
        if refusal.is_final:
            self._never_began = refusal
        return refusal.completion()

    def after(self, completion: WorkflowActivationCompletion) -> None:
        """Verify the commands; one that leaves the tenant fails the workflow in their place."""
        if self._verifier is None or not completion.HasField("successful"):
            return
        issued = completion.successful.commands
        # The directory refused this task's command when it ran, whatever it answers now.
        if self._recorded is not None and any(
            command.WhichOneof("variant") in PLACED for command in issued
        ):
            self._recorded.write(completion)
            return
        try:
            for command in issued:
                self._verifier.verify(command, is_replaying=self._is_replaying)
        except TenantMismatchError as error:
            marker = REFUSED_COMMAND if isinstance(error, _MisplacedError) else ""
            Refusal(TENANT_MISMATCH, str(error), marker).write(completion)
        except (DirectoryUnavailableError, UnknownTenantError) as error:
            Refusal(TENANT_UNDECIDED, f"workflow waits: {error}").write(completion)


_MISSING_PREFIX: Final = "temporal-no-such-workflow:"
"""Turns an ID into one that cannot exist: no tenant's ID begins so (B4)."""

_SYSTEM_ENDPOINTS: Final = "__temporal"
"""Prefix of the endpoints where the server itself acts, on whatever an operation names."""


class CommandVerifier:
    """Holds the commands of one run to its tenant, with one method for each kind of command."""

    def __init__(
        self,
        codec: TenantCodec,
        details: WorkflowInstanceDetails,
        tenant: str,
        *,
        bridge: LoopBridge | None,
        ownership: OwnershipLookup | None,
    ) -> None:
        self._codec = codec
        self._tenant = tenant
        self._namespace = details.info.namespace
        self._task_queue = details.info.task_queue
        self._is_scoped = codec.is_scoped(tenant, details.info.workflow_id)
        self._ownership = ownership
        self._bridge = bridge
        self._is_replaying = True

    def verify(self, command: commands.WorkflowCommand, *, is_replaying: bool) -> None:
        """Scope and place a command, or raise a `TenantMismatchError` if it leaves the tenant."""
        kind = command.WhichOneof("variant") or ""
        verify = COMMANDS.get(kind)
        if verify is not None:
            self._is_replaying = is_replaying
            verify(self, getattr(command, kind))

    def activity(self, command: commands.ScheduleActivity) -> None:
        """Verify the header, and send the activity to the tenant's own queue."""
        self._require_header(command.headers)
        placement = self._placement()
        if placement is not None:
            self._bound_urgency(command, placement)
            self._reroute(command, placement)

    def local_activity(self, command: commands.ScheduleLocalActivity) -> None:
        """Verify the header; a local activity has neither priority nor queue (T10)."""
        self._require_header(command.headers)

    def child(self, command: commands.StartChildWorkflowExecution) -> None:
        """Verify what names the tenant, and send the child to the tenant's own queue."""
        self._require_header(command.headers)
        self._require_own_id(command.namespace, command.workflow_id)
        self._require_attribute(command.search_attributes.indexed_fields)
        placement = self._placement()
        if placement is not None:
            self._refuse_foreign_child(command)
            self._bound_urgency(command, placement)
            self._reroute(command, placement)

    def continue_as_new(self, command: commands.ContinueAsNewWorkflowExecution) -> None:
        """Verify what names the tenant, and send the next run to the tenant's own queue."""
        self._require_header(command.headers)
        if command.HasField("search_attributes"):
            self._require_attribute(command.search_attributes.indexed_fields)
        placement = self._placement()
        if placement is not None:
            self._reroute(command, placement)

    def external_signal(self, command: commands.SignalExternalWorkflowExecution) -> None:
        """Verify the header and the target; a signal to a child names no execution."""
        self._require_header(command.headers)
        if command.HasField("workflow_execution"):
            target = command.workflow_execution
            self._require_own_id(target.namespace, target.workflow_id)
            self._require_own_target(target)

    def external_cancel(self, command: commands.RequestCancelExternalWorkflowExecution) -> None:
        """Scope the target, which has no interceptor to do so (T19)."""
        target = command.workflow_execution
        if self._is_scoped:
            target.workflow_id = scope_id(self._tenant, target.workflow_id)
        self._require_own_target(target)

    def nexus_operation(self, command: commands.ScheduleNexusOperation) -> None:
        """Refuse the server's own endpoints, and verify the header under every spelling (B12)."""
        if command.endpoint.startswith(_SYSTEM_ENDPOINTS):
            raise _left(f"endpoint {command.endpoint!r} is the server's own")
        name = self._codec.nexus_header
        found = {key: value for key, value in command.nexus_header.items() if key.lower() == name}
        if found != {name: self._tenant}:
            raise _left(f"header {name!r} is not the workflow's tenant")

    def upserted_attributes(self, command: commands.UpsertWorkflowSearchAttributes) -> None:
        """Refuse another tenant's name in the tenant's search attribute."""
        name = self._codec.attribute.name
        self._reject_reserved(name, command.search_attributes.indexed_fields)

    def upserted_memo(self, command: commands.ModifyWorkflowProperties) -> None:
        """Refuse another tenant's name in the tenant's memo field."""
        self._reject_reserved(self._codec.header, command.upserted_memo.fields)

    def _require_header(self, headers: Headers) -> None:
        if self._codec.read_header(headers) != self._tenant:
            raise _left(f"header {self._codec.header!r} is not the workflow's tenant")

    def _require_own_id(self, namespace: str, workflow_id: str) -> None:
        if namespace not in ("", self._namespace):
            raise _left(f"it names namespace {namespace!r}")
        if self._is_scoped and owner_of(workflow_id) != self._tenant:
            raise _left(f"it names workflow {workflow_id!r}")

    def _require_attribute(self, attributes: Mapping[str, Payload]) -> None:
        name = self._codec.attribute.name
        if name not in attributes or not self._is_own(attributes[name]):
            raise _left(f"search attribute {name!r} is not the workflow's tenant")

    def _reject_reserved(self, name: str, upserted: Mapping[str, Payload]) -> None:
        if name in upserted and not self._is_own(upserted[name]):
            msg = f"workflow code wrote {name!r}, which names the tenant: do not write it"
            raise TenantMismatchError(msg)

    def _is_own(self, payload: Payload) -> bool:
        text = tenant_as_json(self._tenant)
        return payload.data in (text, b"[%b]" % text)  # alone, or as the list of one

    def _require_own_target(self, target: NamespacedWorkflowExecution) -> None:
        """Pin the target to the tenant's own workflow, or to none in place of another's.

        Where IDs are scoped, a run without the prefix (another SDK started it, for instance) may
        also reach what has no tenant.
        """
        if self._is_scoped or self._is_replaying or self._ownership is None or self._bridge is None:
            return
        find = self._ownership.of_execution
        found = self._bridge.wait_for(find, target.workflow_id, target.run_id)
        reachable = {self._tenant} if self._codec.has_global_ids else {self._tenant, None}
        if found is None or found.tenant not in reachable:
            # Foreign and absent must look the same, so the server reports a missing workflow (B9).
            target.workflow_id = _MISSING_PREFIX + target.workflow_id
        else:
            # Another run of this ID may begin between the look-up and the command.
            target.run_id = found.run_id

    def _placement(self) -> Placement | None:
        """The tenant's placement for a command that is new; None on replay."""
        if self._is_replaying or self._bridge is None:
            return None
        return self._bridge.placement(self._tenant)

    def _refuse_foreign_child(self, child: commands.StartChildWorkflowExecution) -> None:
        if self._is_scoped:
            return
        try:
            self._codec.check_owner(self._tenant, child.workflow_id)
        except TenantMismatchError as error:
            raise _MisplacedError(str(error)) from error
        policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
        if child.workflow_id_reuse_policy == policy:  # B9
            msg = (
                f"a child would terminate whatever runs under ID {child.workflow_id!r}, which may"
                " be another tenant's: use another ID or another reuse policy"
            )
            raise _MisplacedError(msg)

    def _bound_urgency(
        self,
        command: commands.ScheduleActivity | commands.StartChildWorkflowExecution,
        placement: Placement,
    ) -> None:
        asked, allowed = command.priority.priority_key, placement.record.most_urgent_priority
        # A lower number is more urgent, and 0 means that none was set (B13).
        if self._codec.settings.fairness and 0 < asked < allowed:
            command.priority.priority_key = allowed

    def _reroute(
        self,
        command: commands.ScheduleActivity
        | commands.StartChildWorkflowExecution
        | commands.ContinueAsNewWorkflowExecution,
        placement: Placement,
    ) -> None:
        """Send the work to the tenant's own queue, where running workflows move to, too (B11)."""
        asked = command.task_queue or self._task_queue
        try:
            queue = placement.queue(asked, namespace=self._namespace)
        except TenantMismatchError as error:
            # A wrong queue in code is final; its own queue the directory may give back.
            if asked != self._task_queue:
                raise _MisplacedError(str(error)) from error
            msg = f"the task queue of this workflow was given to other tenants: {error}"
            raise DirectoryUnavailableError(msg) from error
        if queue != asked:
            command.task_queue = queue


COMMANDS: Final[Mapping[str, Callable[[CommandVerifier, Any], None]]] = {
    "schedule_activity": CommandVerifier.activity,
    "schedule_local_activity": CommandVerifier.local_activity,
    "start_child_workflow_execution": CommandVerifier.child,
    "continue_as_new_workflow_execution": CommandVerifier.continue_as_new,
    "signal_external_workflow_execution": CommandVerifier.external_signal,
    "request_cancel_external_workflow_execution": CommandVerifier.external_cancel,
    "schedule_nexus_operation": CommandVerifier.nexus_operation,
    "upsert_workflow_search_attributes": CommandVerifier.upserted_attributes,
    "modify_workflow_properties": CommandVerifier.upserted_memo,
}
"""Commands that can leave the tenant; the others concern the run alone."""

PLACED: Final = frozenset(
    {
        "schedule_activity",
        "start_child_workflow_execution",
        "continue_as_new_workflow_execution",
    }
)
"""Commands that put work into a queue."""


class _MisplacedError(TenantMismatchError):
    """A command leaves the tenant by the directory's answer, which history does not have."""


def _left(problem: str) -> TenantMismatchError:
    return TenantMismatchError(
        f"a command of the workflow leaves its tenant: {problem}. Something changed what Orkestra"
        " wrote: do not modify the workflow's info, headers or event loop"
    )
