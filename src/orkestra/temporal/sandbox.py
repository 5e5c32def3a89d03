"""Which modules a workflow's sandbox passes through, and where workflow code is found.

Installed packages pass through: importing them again for each workflow costs more than the
workflow itself, and many (httpx, for one) cannot be imported inside at all. The packages that hold
the workflows are always imported again, so that no state leaks from one workflow to another.

Modules that a sandbox loads again get the code that was read for the first of them.

Python looks for a module on its path and reads its code for every run, and compiles it where
bytecode is not written, as in many container images. Who edits a file while a worker runs does not
change, either, what the worker's next workflows do: they run what the worker has loaded.

The SDK's sandbox for less, with the same rules.

The SDK compiles a few lines of its own anew for each step of a run, and enters the sandbox several
times for each payload only to ask in whose name it is written. Together that was a fifth of what a
worker does for a workflow of one activity (`make bench OPTIONS="--no-cpu --instructions"`). Both
are private to the SDK: where a release has changed them, `is_known_sandbox()` says so and its own
sandbox runs.
"""

import contextlib
import dataclasses
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from temporalio import workflow
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orkestra.config import SandboxSettings
from orkestra.temporal._sdk import (
    IN_SANDBOX,
    is_known_sandbox,
    process_modules,
    sandbox_instance_class,
)

_ALWAYS: Final = "orkestra"
_MODULE_SUFFIXES: Final = (".py", ".so", ".pyd")


def sandbox_runner(
    runner: SandboxedWorkflowRunner, workflows: Iterable[type], settings: SandboxSettings
) -> SandboxedWorkflowRunner:
    """The runner with this policy's modules passed through besides its own.

    Args:
        runner: A sandboxed runner, its class and other restrictions are kept.
        workflows: The workflow classes of the worker.
        settings: What to pass through or to reload besides.

    Returns:
        A runner of the same kind.
    """
    reloaded = {workflow.__module__.partition(".")[0] for workflow in workflows}
    passed = (installed_packages() - reloaded - set(settings.reload)) | {_ALWAYS}
    restrictions: SandboxRestrictions = runner.restrictions.with_passthrough_modules(
        *passed, *settings.passthrough
    )
    if type(runner) is SandboxedWorkflowRunner and is_known_sandbox(_SdkInstance):
        keep_code()
        runner = FrugalSandbox(runner_class=runner.runner_class)
    return dataclasses.replace(runner, restrictions=restrictions)


@cache
def installed_packages() -> frozenset[str]:
    """Top-level names under site-packages; editable installs are not there and do not count."""
    roots = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    return frozenset(
        name
        for root in roots
        if root.is_dir()
        for entry in root.iterdir()
        if (name := _module(entry))
    )


def _module(entry: Path) -> str | None:
    """The module name of a file or folder of site-packages; namespace packages count."""
    name = entry.name.partition(".")[0]
    is_module = entry.is_dir() or entry.suffix in _MODULE_SUFFIXES
    return name if is_module and name.isidentifier() and "-info" not in entry.name else None


@cache
def keep_code() -> None:
    """Let sandboxes have the code of the process's own modules, from now on."""
    kept = _KeptCode(process_modules())
    # Instead of the path alone: who comes before it (rewritten assertions, hooks) is asked as ever.
    at = next((at for at, finder in enumerate(sys.meta_path) if finder is PathFinder), None)
    if at is not None:
        sys.meta_path.insert(at, kept)


class _Loader(SourceFileLoader):
    """Loads a module from code that is at hand; `inspect` finds its source as ever."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """See base class."""
        del fullname
        return self._code


class _KeptCode(MetaPathFinder):
    """Finds, for a sandbox alone, what the process has loaded from source files.

    Args:
        modules: The modules of the process.
    """

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = modules
        self._loaders = WeakKeyDictionary[ModuleType, tuple[ModuleSpec, _Loader | None]]()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See base class."""
        del path
        if target is not None or not workflow.unsafe.in_sandbox():
            return None  # a reload, which is to read the file
        module = self._modules.get(fullname)
        # Only plain modules: to ask one that loads lazily for its specification would load it.
        spec = vars(module).get("__spec__") if type(module) is ModuleType else None
        if module is None or not isinstance(spec, ModuleSpec) or spec.name != fullname:
            return None
        with contextlib.suppress(OSError):  # the file is gone or may not be read any more
            return self._again(module, spec)
        return None

    def _again(self, module: ModuleType, spec: ModuleSpec) -> ModuleSpec | None:
        loader = self._loader(module, spec)
        again = None if loader is None else spec_from_file_location(spec.name, loader=loader)
        # A package that has put more on its `__path__`, or that was found in a way of its own, is
        # looked for as ever.
        return again if again is not None and _places(again) == _places(spec) else None

    def _loader(self, module: ModuleType, spec: ModuleSpec) -> _Loader | None:
        # Other loaders (zip files, rewritten assertions of tests) are asked as ever.
        if type(spec.loader) is not SourceFileLoader:
            return None
        kept, loader = self._loaders.get(module, (None, None))
        if kept is not spec:  # the first time, or since a reload
            code = spec.loader.get_code(spec.name)
            loader = None if code is None else _Loader(spec.name, spec.loader.path, code)
            self._loaders[module] = spec, loader
        return loader


def _places(spec: ModuleSpec) -> tuple[str | None, list[str] | None]:
    return spec.origin, spec.submodule_search_locations


_SdkInstance: Final[Any] = sandbox_instance_class()


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
        return self.globals_and_locals[IN_SANDBOX].get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self.globals_and_locals[IN_SANDBOX].get_external_store_context(command_info)


@lru_cache(maxsize=1024)
def _compiled(code: str) -> CodeType:
    return compile(code, "<string>", "exec")
