"""Refusing on the workflow's thread: what is wrong, and whether it ends the workflow."""

from dataclasses import dataclass

from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from orkestra.errors import TENANT_UNDECIDED


@dataclass(frozen=True)
class Verdict:
    """Why a run may not go on as it would.

    Attributes:
        kind: `ApplicationError.type` of the failure.
        problem: What is wrong, and how to mend it.
    """

    kind: str
    problem: str

    @property
    def is_final(self) -> bool:
        """Whether the workflow fails, and not just its task, which is tried again."""
        return self.kind != TENANT_UNDECIDED

    def completion(self) -> WorkflowActivationCompletion:
        """What an activation leads to that this verdict stops before any workflow code runs."""
        completion = WorkflowActivationCompletion()
        completion.successful.SetInParent()
        self.write(completion)
        return completion

    def write(self, completion: WorkflowActivationCompletion) -> None:
        """Put the failure in place of everything that the activation led to."""
        if not self.is_final:
            completion.failed.SetInParent()
            self._fill(completion.failed.failure)
            return
        del completion.successful.commands[:]
        command = completion.successful.commands.add()
        self._fill(command.fail_workflow_execution.failure)

    def _fill(self, failure: Failure) -> None:
        failure.message = self.problem
        failure.source = "Orkestra"
        failure.application_failure_info.type = self.kind
        failure.application_failure_info.non_retryable = self.is_final
