"""The SDK's sandbox for less, with the same rules.

The SDK compiles a few lines of its own anew for each step of a run, and enters the sandbox several
times for each payload only to ask in whose name it is written. Together that was a fifth of what a
worker does for a workflow of one activity, by instructions (`python -m benchmarks.instructions`).
Both are private to the SDK: where a release has changed them, `is_known()` says so and its own
sandbox runs.
"""

import dataclasses
from functools import cache, lru_cache
from types import CodeType
from typing import Any, Final

from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox import _runner as sdk  # pyright: ignore[reportPrivateUsage]

_SdkInstance: Final[Any] = getattr(sdk, "_Instance", object)
_INSIDE: Final = "__temporal_in_sandbox"


@cache
def is_known(instance: Any = _SdkInstance) -> bool:
    """Whether the SDK's sandbox is made as this module takes it to be.

    Args:
        instance: The class of the SDK's instances.
    """
    try:
        code = instance._run_code.__code__  # noqa: SLF001 - what is compared
        makes = instance._create_instance.__code__.co_consts  # noqa: SLF001 - likewise
    except AttributeError:
        return False
    takes_code = code.co_varnames[:2] == ("self", "code") and "exec" in code.co_names
    return (
        takes_code
        and "globals_and_locals" in code.co_names
        and any(f" {_INSIDE} = InSandbox(" in str(constant) for constant in makes)
    )


@dataclasses.dataclass(frozen=True)
class FrugalSandbox(SandboxedWorkflowRunner):
    """Runs workflows as the SDK's own sandbox does."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
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
