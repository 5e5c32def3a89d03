"""The one wrapper of the workflow runner: hooks that see every activation and its commands.

Interceptors see what the SDK has hooks for. What it has none for (cancelling an external workflow,
upserting memo and search attributes, whether the server took a task's result) can only be seen
here (T67). The SDK calls this interface unstable: a test pins what is used of it.
"""

import contextvars
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from temporalio import workflow
from temporalio.converter import SerializationContext, StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra.temporal._sdk import WorkflowActivation, WorkflowActivationCompletion


class RunHook(Protocol):
    """Sees the activations of one run, on the workflow's thread, outside the sandbox."""

    def before(self, activation: WorkflowActivation) -> WorkflowActivationCompletion | None:
        """Called before the activation; context variables set here hold for all of it.

        Returns:
            The result of the activation, without running the workflow and the hooks further in;
            None runs them.
        """

    def after(self, completion: WorkflowActivationCompletion) -> None:
        """Called with the result of the activation, which it may change."""


HookFactory: TypeAlias = Callable[[WorkflowInstanceDetails], RunHook]
"""Makes the hook of a run."""


def with_run_hooks(runner: WorkflowRunner, hooks: Sequence[HookFactory]) -> WorkflowRunner:
    """Put hooks around every run of a runner, the outermost first.

    A sandboxed runner stays one, because the SDK's debug mode asks for it. A runner that has hooks
    already is returned as it is.
    """
    if not hooks or isinstance(runner, _HookedSandbox | _HookedRunner):
        return runner
    if isinstance(runner, SandboxedWorkflowRunner):
        return _HookedSandbox(
            restrictions=runner.restrictions,
            runner_class=runner.runner_class,
            inner=runner,
            hooks=tuple(hooks),
        )
    return _HookedRunner(inner=runner, hooks=tuple(hooks))


@dataclasses.dataclass(frozen=True)
class _HookedSandbox(SandboxedWorkflowRunner):
    inner: SandboxedWorkflowRunner = dataclasses.field(default_factory=SandboxedWorkflowRunner)
    hooks: tuple[HookFactory, ...] = ()

    def prepare_workflow(self, defn: Any) -> None:
        """See base class; a workflow is validated without hooks."""
        self._relaxed().prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        instance = self._relaxed().create_instance(det)
        return _HookedInstance(instance, [make(det) for make in self.hooks])

    def _relaxed(self) -> SandboxedWorkflowRunner:
        """Return the inner runner, with this one's restrictions, which debug mode may relax."""
        inner = self.inner
        if inner.restrictions is self.restrictions and inner.runner_class is self.runner_class:
            return inner
        return dataclasses.replace(
            inner, restrictions=self.restrictions, runner_class=self.runner_class
        )


@dataclasses.dataclass(frozen=True)
class _HookedRunner(WorkflowRunner):
    inner: WorkflowRunner
    hooks: tuple[HookFactory, ...]

    def prepare_workflow(self, defn: Any) -> None:
        """See base class."""
        self.inner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        return _HookedInstance(self.inner.create_instance(det), [make(det) for make in self.hooks])

    def set_worker_level_failure_exception_types(
        self, types: Sequence[type[BaseException]]
    ) -> None:
        """See base class."""
        self.inner.set_worker_level_failure_exception_types(types)


class _HookedInstance(WorkflowInstance):
    """Passes everything on to the instance, with the hooks around its activations."""

    def __init__(self, inner: WorkflowInstance, hooks: Sequence[RunHook]) -> None:
        self._inner = inner
        self._hooks = hooks

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """See base class."""
        # The thread serves other runs next, which must not find this one's tenant.
        return contextvars.copy_context().run(self._activate, act)

    def _activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        entered: list[RunHook] = []
        completion: WorkflowActivationCompletion | None = None
        for hook in self._hooks:
            entered.append(hook)
            completion = hook.before(act)
            if completion is not None:
                break
        if completion is None:
            completion = self._inner.activate(act)
        # Hooks further in than the one that answered never began.
        for hook in reversed(entered):
            hook.after(completion)
        return completion

    def get_serialization_context(self, command_info: Any) -> SerializationContext | None:
        """See base class."""
        return self._inner.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> StorageDriverStoreContext:
        """See base class."""
        return self._inner.get_external_store_context(command_info)

    def get_info(self) -> workflow.Info:
        """See base class."""
        return self._inner.get_info()

    def get_thread_id(self) -> int | None:
        """See base class."""
        return self._inner.get_thread_id()
