"""Refusing on the workflow's thread: what is wrong, and whether it ends the workflow.

What the directory says is not in the history. So a refusal that rests on it leaves a marker there,
the one that `workflow.patched()` makes: a replay is told of it beforehand, and refuses without
asking anybody.
"""

from dataclasses import dataclass
from typing import Final

from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from orkestra.errors import TENANT_UNDECIDED

RUN: Final = "orkestra-refused-run:"
COMMAND: Final = "orkestra-refused-command:"


@dataclass(frozen=True)
class Verdict:
    """Why a run may not go on as it would.

    Attributes:
        kind: `ApplicationError.type` of the failure.
        problem: What is wrong, and how to mend it.
        marker: What history has to say of it before the kind; empty where it follows from history.
    """

    kind: str
    problem: str
    marker: str = ""

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
        commands = completion.successful.commands
        del commands[:]
        if self.marker:
            commands.add().set_patch_marker.patch_id = f"{self.marker}{self.kind}"
        self._fill(commands.add().fail_workflow_execution.failure)

    def answers(self, activation: WorkflowActivation) -> WorkflowActivationCompletion:
        """What queries get of a run that was refused, for it has no code to ask."""
        completion = WorkflowActivationCompletion()
        completion.successful.SetInParent()
        for job in activation.jobs:
            if job.HasField("query_workflow"):
                result = completion.successful.commands.add().respond_to_query
                result.query_id = job.query_workflow.query_id
                self._fill(result.failed)
        return completion

    def _fill(self, failure: Failure) -> None:
        failure.message = self.problem
        failure.source = "Orkestra"
        failure.application_failure_info.type = self.kind
        failure.application_failure_info.non_retryable = self.is_final


def recorded_verdict(activation: WorkflowActivation, marker: str) -> Verdict | None:
    """The refusal that history tells of the task that is replayed, or None.

    Args:
        activation: The first activation of the task.
        marker: `RUN` or `COMMAND`.
    """
    for job in activation.jobs:
        patch = job.notify_has_patch.patch_id
        if patch.startswith(marker):
            return Verdict(patch.removeprefix(marker), "workflow refused when it ran", marker)
    return None
