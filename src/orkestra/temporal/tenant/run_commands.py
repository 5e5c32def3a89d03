"""What happens around the code of a run: whether it may begin, and the commands that it issues.

Some commands have no interceptor: an external cancel is scoped here as an external signal is by
its own; writing the tenant's own search attribute or memo field fails the workflow, because a
workflow could otherwise vanish from its tenant's lists, or into another's. Those two depend on
history alone, and are the same under replay.

What depends on the directory (task queues, urgency) is decided here as well, when a command is
new: the interceptors run inside the sandbox and may not ask. Under replay nothing is asked or
changed, and the core does not compare these fields with history; what was refused then is in it.

The second look at what a workflow issues, from outside the sandbox.

The interceptors write the tenant into commands, but they live beside the workflow's own code, which
can change what they read. Here the tenant is the one that was read before any of that code ran. It
is the same under replay: what is looked at follows from history and code.
"""

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import WorkflowIdReusePolicy
from temporalio.worker import WorkflowInstanceDetails

from orkestra.directory import Placement, Placements
from orkestra.errors import (
    TENANT_MISMATCH,
    TENANT_UNDECIDED,
    DirectoryUnavailableError,
    TenantMismatchError,
    UnknownTenantError,
)
from orkestra.temporal._sdk import (
    ContinueAsNewWorkflowExecution,
    NamespacedWorkflowExecution,
    ScheduleActivity,
    ScheduleNexusOperation,
    StartChildWorkflowExecution,
    WorkflowActivation,
    WorkflowActivationCompletion,
    WorkflowCommand,
)
from orkestra.temporal.tenant.admission import (
    COMMAND,
    RUN,
    Admission,
    Asking,
    Limit,
    Untenanted,
    Verdict,
    recorded_verdict,
)
from orkestra.temporal.tenant.stamp import TenantPolicy
from orkestra.tenancy import act_for, owner_of, scope_id, tenant_as_json

_NOBODYS: Final = "temporal-no-such-workflow:"
"""Before an ID, names a workflow that cannot exist: no tenant's ID begins so."""

_PLACED: Final = (
    "schedule_activity",
    "start_child_workflow_execution",
    "continue_as_new_workflow_execution",
)
"""Commands that put work into a queue."""


class Owners(Protocol):
    """Looks up whose a workflow is."""

    async def whose(self, workflow_id: str, run_id: str) -> tuple[str | None, str] | None:
        """The tenant and the run of an ID, or None where there is no such workflow."""
        ...


class TenantRunHook:
    """Sets the tenant for all code of a run, lets it begin, and checks the commands it issues.

    Args:
        policy: Names and mode.
        details: What the SDK knows of the run.
        placements: Where tenants belong; None asks nothing, as for a replayer.
        tenants: The tenants that the worker serves; None means all.
        owners: Looks up whose an external workflow is, where its ID does not say it.
    """

    def __init__(
        self,
        policy: TenantPolicy,
        details: WorkflowInstanceDetails,
        *,
        placements: Placements | None = None,
        tenants: Collection[str] | None = None,
        owners: Owners | None = None,
    ) -> None:
        self._owners = owners
        self._policy = policy
        try:
            self._tenant = policy.read_run(details.info)
            self._is_refused = False
        except TenantMismatchError:  # the interceptors refuse it
            self._tenant = None
            self._is_refused = True
        self._info = details.info
        self._is_scoped = policy.is_scoped(self._tenant, details.info.workflow_id)
        self._issued = (
            Issued(
                policy,
                self._tenant,
                namespace=details.info.namespace,
                is_scoped=self._is_scoped,
            )
            if self._tenant is not None
            else None
        )
        self._limit = None if tenants is None else Limit(details, tenants, policy.labels)
        self._asking = None if placements is None else Asking(placements)
        self._untenanted = (
            Untenanted(details, policy.header, self._tenant)
            if policy.settings.mode == "optional" and self._asking is not None
            else None
        )
        self._admission = (
            Admission(details, self._tenant, self._asking, policy.labels)
            if self._tenant is not None and self._asking is not None
            else None
        )
        self._is_replaying = True
        self._recorded: Verdict | None = None
        self._never_began: Verdict | None = None

    def before(self, activation: WorkflowActivation) -> WorkflowActivationCompletion | None:
        """Make the tenant current, also for the workflow's constructor, and let the run begin."""
        act_for(self._tenant)
        self._is_replaying = activation.is_replaying
        if any(job.HasField("remove_from_cache") for job in activation.jobs):
            return None
        if self._never_began is not None:
            return self._never_began.answers(activation)
        self._recorded = self._recorded or recorded_verdict(activation, COMMAND)
        if self._asking is not None:
            self._asking.start()
        if self._untenanted is not None:
            self._untenanted.count(activation)
        verdict = None
        if self._limit is not None and not self._is_left_to_interceptors:
            verdict = self._limit.verdict(self._tenant)
        if verdict is None and self._admission is not None:
            verdict = self._admission.verdict(activation)
        verdict = verdict or recorded_verdict(activation, RUN)
        if verdict is None:
            return None
        if verdict.is_final:
            self._never_began = verdict
        return verdict.completion()

    @property
    def _is_left_to_interceptors(self) -> bool:
        """Whether the run fails for good, whichever worker gets it."""
        return self._is_refused or (self._tenant is None and self._policy.is_required)

    def after(self, completion: WorkflowActivationCompletion) -> None:
        """Scope external cancels, place new work, and refuse writing what names the tenant."""
        tenant = self._tenant
        if tenant is None or not completion.HasField("successful"):
            return
        commands = completion.successful.commands
        if self._recorded is not None and any(map(_is_placed, commands)):
            self._recorded.write(completion)
            return
        try:
            for command in commands:
                self._check(command, tenant)
        except _MisplacedError as error:
            Verdict(TENANT_MISMATCH, str(error), COMMAND).write(completion)
        except TenantMismatchError as error:
            Verdict(TENANT_MISMATCH, str(error)).write(completion)
        except (DirectoryUnavailableError, UnknownTenantError) as error:
            Verdict(TENANT_UNDECIDED, f"workflow waits: {error}").write(completion)

    def _check(self, command: WorkflowCommand, tenant: str) -> None:
        if self._issued is not None:
            self._issued.check(command)
        if command.HasField("request_cancel_external_workflow_execution"):
            target = command.request_cancel_external_workflow_execution.workflow_execution
            if self._is_scoped:
                target.workflow_id = scope_id(tenant, target.workflow_id)
            self._hold_to_own(target, tenant)
        elif command.HasField("signal_external_workflow_execution"):
            signal = command.signal_external_workflow_execution
            if signal.HasField("workflow_execution"):
                self._hold_to_own(signal.workflow_execution, tenant)
        elif command.HasField("upsert_workflow_search_attributes"):
            attributes = command.upsert_workflow_search_attributes.search_attributes
            self._leave_alone(self._policy.attribute.name, attributes.indexed_fields, tenant)
        elif command.HasField("modify_workflow_properties"):
            memo = command.modify_workflow_properties.upserted_memo
            self._leave_alone(self._policy.header, memo.fields, tenant)
        elif self._asking is not None and not self._is_replaying:
            self._place(command, tenant, self._asking)

    def _hold_to_own(self, target: NamespacedWorkflowExecution, tenant: str) -> None:
        """Let it reach the tenant's own workflow, and find none in place of another's.

        Where IDs are scoped, a run without the prefix (another SDK started it, for instance) may
        also reach what has no tenant.
        """
        owners, asking = self._owners, self._asking
        if self._is_scoped or owners is None or asking is None or self._is_replaying:
            return
        workflow_id, run_id = target.workflow_id, target.run_id
        found = asking.wait_for(lambda: owners.whose(workflow_id, run_id))
        reachable = {tenant} if self._policy.has_global_ids else {tenant, None}
        if found is None or found[0] not in reachable:
            target.workflow_id = _NOBODYS + workflow_id
        else:
            target.run_id = found[1]

    def _leave_alone(self, name: str, upserted: Mapping[str, Payload], tenant: str) -> None:
        payload = upserted.get(name)
        if payload is not None and payload.data not in spellings(tenant):
            msg = f"workflow code wrote {name!r}, which names the tenant: leave it alone"
            raise TenantMismatchError(msg)

    def _place(self, command: WorkflowCommand, tenant: str, asking: Asking) -> None:
        if not _is_placed(command):
            return
        placement = asking.placement(tenant)
        if command.HasField("schedule_activity"):
            self._bound_urgency(command.schedule_activity, placement)
            self._move(command.schedule_activity, placement)
        elif command.HasField("start_child_workflow_execution"):
            self._refuse_anothers_id(command.start_child_workflow_execution, tenant)
            self._bound_urgency(command.start_child_workflow_execution, placement)
            self._move(command.start_child_workflow_execution, placement)
        else:
            self._move(command.continue_as_new_workflow_execution, placement)

    def _refuse_anothers_id(self, child: StartChildWorkflowExecution, tenant: str) -> None:
        if self._is_scoped:
            return
        try:
            self._policy.check_owner(tenant, child.workflow_id)
        except TenantMismatchError as error:
            raise _MisplacedError(str(error)) from error
        policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
        if child.workflow_id_reuse_policy == policy:
            msg = (
                f"a child would terminate whatever runs under ID {child.workflow_id!r}, which may"
                " be another tenant's: use another ID or another reuse policy"
            )
            raise _MisplacedError(msg)

    def _bound_urgency(
        self, command: ScheduleActivity | StartChildWorkflowExecution, placement: Placement
    ) -> None:
        asked, allowed = command.priority.priority_key, placement.record.most_urgent_priority
        if self._policy.settings.fairness and 0 < asked < allowed:
            command.priority.priority_key = allowed

    def _move(
        self,
        command: ScheduleActivity | StartChildWorkflowExecution | ContinueAsNewWorkflowExecution,
        placement: Placement,
    ) -> None:
        """Send the work to the tenant's own queue, which also lets running workflows move there."""
        here = self._info.task_queue
        asked = command.task_queue or here
        try:
            queue = placement.queue(asked, namespace=self._info.namespace)
        except TenantMismatchError as error:
            if asked != here:
                raise _MisplacedError(str(error)) from error
            msg = f"the queue that this workflow runs on was given to others: {error}"
            raise DirectoryUnavailableError(msg) from error
        if queue != asked:
            command.task_queue = queue


class _MisplacedError(TenantMismatchError):
    """A command leaves the tenant's place, by what does not stand in history."""


def _is_placed(command: WorkflowCommand) -> bool:
    return command.WhichOneof("variant") in _PLACED


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
    text = tenant_as_json(tenant)
    return text, b"[%b]" % text


def _left(problem: str) -> TenantMismatchError:
    return TenantMismatchError(
        f"a command of the workflow leaves its tenant: {problem}. Something undid what Orkestra"
        " wrote: leave the workflow's info, headers and event loop alone"
    )
