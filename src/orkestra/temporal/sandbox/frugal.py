"""The SDK's sandbox for less, with the same rules.

The SDK compiles a few lines of its own anew for each step of a run, and enters the sandbox several
times for each payload only to ask in whose name it is written. Together that was a fifth of what a
worker does for a workflow of one activity (`make bench OPTIONS="--no-cpu --instructions"`). Both
are private to the SDK: where a release has changed them, `is_known()` says so and its own sandbox
runs.
"""

import dataclasses
from functools import cache, lru_cache
from types import CodeType
from typing import Any, Final

from temporalio.worker import (
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox import _runner as sdk  # pyright: ignore[reportPrivateUsage]

_SdkInstance: Final[Any] = getattr(sdk, "_Instance", object)
_INSIDE: Final = "__temporal_in_sandbox"
_ASSUMED: Final = {
    "__init__": ("self instance_details runner_class restrictions", "globals_and_locals"),
    "_create_instance": ("self", f" {_INSIDE} = InSandbox("),
    "_run_code": ("self code", "globals_and_locals", "exec"),
    "get_serialization_context": (
        "self command_info",
        f" {_INSIDE}.get_serialization_context(__temporal_command_info)\n",
    ),
    "get_external_store_context": (
        "self command_info",
        f" {_INSIDE}.get_external_store_context(__temporal_command_info)\n",
    ),
}
"""The SDK's methods that the instance below builds upon: what they take, and names or lines of code
that are in them."""


@cache
def is_known(instance: Any = _SdkInstance) -> bool:
    """Whether the SDK's sandbox is made as this module takes it to be.

    Args:
        instance: The class of the SDK's instances.
    """
    return all(_is_so(getattr(instance, name, None), *so) for name, so in _ASSUMED.items())


def _is_so(method: Any, takes: str, *has: str) -> bool:
    code = getattr(method, "__code__", None)
    if code is None:
        return False
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    within = [str(each) for each in (*code.co_names, *code.co_consts)]
    return " ".join(names) == takes and all(any(it in each for each in within) for it in has)


@dataclasses.dataclass(frozen=True)
class FrugalSandbox(SandboxedWorkflowRunner):
    """Runs workflows as the SDK's own sandbox does."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        if self.runner_class is not UnsandboxedWorkflowRunner:
            return super().create_instance(det)  # its instances may run code of their own anywhere
        instance: WorkflowInstance = _Instance(det, self.runner_class, self.restrictions)
        return instance


class _Instance(_SdkInstance):  # type: ignore[misc] # its base may be gone
    def _run_code(self, code: str, **extra_globals: Any) -> None:
        _SdkInstance._run_code(self, _compiled(code), **extra_globals)  # noqa: SLF001 - its base

    # None of the workflow's code runs for these two, so nothing has to be kept from it.

    def get_serialization_context(self, command_info: Any) -> Any:
        return self.globals_and_locals[_INSIDE].get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self.globals_and_locals[_INSIDE].get_external_store_context(command_info)


@lru_cache(maxsize=1024)
def _compiled(code: str) -> CodeType:
    return compile(code, "<string>", "exec")
