"""The commands that workflow code can issue without an interceptor seeing them.

An external cancel is scoped here as an external signal is by its interceptor; writing the tenant's
own search attribute or memo field fails the workflow, because a workflow could otherwise vanish
from its tenant's lists, or into another's.
"""

from collections.abc import Mapping

from temporalio.api.common.v1 import Payload
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstanceDetails

from orkestra.errors import TENANT_MISMATCH, TenantMismatchError
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.tenancy import act_for, owner_of, scope_id


class TenantRunHook:
    """Sets the tenant for all code of a run, and checks the commands it issues."""

    def __init__(self, policy: TenantPolicy, details: WorkflowInstanceDetails) -> None:
        """Read the run's tenant; a run that will be refused has none."""
        self._policy = policy
        try:
            self._tenant = policy.read_run(details.info)
        except TenantMismatchError:
            self._tenant = None
        self._is_scoped = owner_of(details.info.workflow_id) == self._tenant

    def before(self, activation: WorkflowActivation) -> None:
        """Make the tenant current, also for the workflow's constructor."""
        del activation
        act_for(self._tenant)

    def after(self, completion: WorkflowActivationCompletion) -> None:
        """Scope external cancels, and refuse writing what names the tenant."""
        tenant = self._tenant
        if tenant is None or not completion.HasField("successful"):
            return
        for command in completion.successful.commands:
            if command.HasField("request_cancel_external_workflow_execution"):
                target = command.request_cancel_external_workflow_execution.workflow_execution
                if self._is_scoped:
                    target.workflow_id = scope_id(tenant, target.workflow_id)
            elif (problem := self._problem(command, tenant)) is not None:
                _fail_instead(completion, problem)
                return

    def _problem(self, command: WorkflowCommand, tenant: str) -> str | None:
        upserted: Mapping[str, Payload]
        if command.HasField("upsert_workflow_search_attributes"):
            name = self._policy.attribute.name
            upserted = command.upsert_workflow_search_attributes.search_attributes.indexed_fields
        elif command.HasField("modify_workflow_properties"):
            name = self._policy.header
            upserted = command.modify_workflow_properties.upserted_memo.fields
        else:
            return None
        payload = upserted.get(name)
        if payload is None or payload.data in _spellings(tenant):
            return None
        return f"workflow code wrote {name!r}, which names the tenant: leave it alone"


def _spellings(tenant: str) -> tuple[bytes, bytes]:
    return f'"{tenant}"'.encode(), f'["{tenant}"]'.encode()


def _fail_instead(completion: WorkflowActivationCompletion, problem: str) -> None:
    del completion.successful.commands[:]
    failure = completion.successful.commands.add().fail_workflow_execution.failure
    failure.message = problem
    failure.source = "Orkestra"
    failure.application_failure_info.type = TENANT_MISMATCH
    failure.application_failure_info.non_retryable = True
