"""The sandbox of workflow code: what it passes through, and how it costs less.

Installed packages pass through: importing them again for each workflow costs more than the
workflow itself, and some (httpx, for one) cannot be imported in a sandbox at all. Packages that
contain workflows are always imported again, so that no state leaks from one workflow to another.

For each run, Python would find these modules on its path and read their code, and compile it where
bytecode is not written, as in many container images. `cache_code()` gives sandboxes the code that
the process has loaded already. Editing a file while a worker runs does not change the worker's next
workflows, therefore.
"""

import contextlib
import dataclasses
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final
from weakref import WeakKeyDictionary

from temporalio import workflow
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orkestra.config import SandboxSettings
from orkestra.temporal._sdk import caching_instance_class, process_modules

_PASSED_THROUGH: Final = "orkestra"
_MODULE_SUFFIXES: Final = (".py", ".so", ".pyd")


def sandbox_runner(
    runner: SandboxedWorkflowRunner, workflows: Iterable[type], settings: SandboxSettings
) -> SandboxedWorkflowRunner:
    """Make a sandboxed runner that passes more modules through.

    Args:
        runner: A sandboxed runner; its class and other restrictions are kept.
        workflows: The workflow classes of the worker.
        settings: More modules to pass through or to reload.
    """
    # Module state of a workflow's package must not be shared by tenants (B26).
    reloaded = {workflow.__module__.partition(".")[0] for workflow in workflows}
    passed = (installed_packages() - reloaded - set(settings.reload)) | {_PASSED_THROUGH}
    restrictions: SandboxRestrictions = runner.restrictions.with_passthrough_modules(
        *passed, *settings.passthrough
    )
    if type(runner) is SandboxedWorkflowRunner and caching_instance_class() is not None:
        cache_code()
        runner = CachingSandboxRunner(runner_class=runner.runner_class)
    return dataclasses.replace(runner, restrictions=restrictions)


@cache
def installed_packages() -> frozenset[str]:
    """List top-level names under site-packages, which editable installs are not."""
    roots = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    return frozenset(
        name
        for root in roots
        if root.is_dir()
        for entry in root.iterdir()
        if (name := _module(entry))
    )


def _module(entry: Path) -> str | None:
    """Find the module name of a file or folder of site-packages, or of a namespace package."""
    name = entry.name.partition(".")[0]
    is_module = entry.is_dir() or entry.suffix in _MODULE_SUFFIXES
    return name if is_module and name.isidentifier() and "-info" not in entry.name else None


@cache
def cache_code() -> None:
    """Let sandboxes use the code of the process's own modules, from now on."""
    finder = _CodeCache(process_modules())
    # Right before the path: finders before it (rewritten assertions, import hooks) come first.
    if PathFinder in sys.meta_path:
        sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)


class _Loader(SourceFileLoader):
    """Loader of a module from cached code; `inspect` still finds its source."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """See base class."""
        del fullname
        return self._code


class _CodeCache(MetaPathFinder):
    """Finder, for sandboxes only, of modules that the process has loaded from source files."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = modules
        self._loaders = WeakKeyDictionary[ModuleType, tuple[ModuleSpec, _Loader | None]]()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See base class."""
        del path
        if target is not None or not workflow.unsafe.in_sandbox():
            return None  # a reload must read the file
        module = self._modules.get(fullname)
        # Only plain modules: reading the attribute of a lazy one would load it.
        spec = vars(module).get("__spec__") if type(module) is ModuleType else None
        if module is None or not isinstance(spec, ModuleSpec) or spec.name != fullname:
            return None
        with contextlib.suppress(OSError):  # the file cannot be read any more
            return self._cached_spec(module, spec)
        return None

    def _cached_spec(self, module: ModuleType, spec: ModuleSpec) -> ModuleSpec | None:
        loader = self._loader(module, spec)
        if loader is None:
            return None
        cached = spec_from_file_location(spec.name, loader=loader)
        # Not for packages with a changed `__path__`, or that were found in another way.
        return cached if cached is not None and _paths(cached) == _paths(spec) else None

    def _loader(self, module: ModuleType, spec: ModuleSpec) -> _Loader | None:
        # Other loaders (zip files, rewritten assertions of tests) load as usual.
        if type(spec.loader) is not SourceFileLoader:
            return None
        cached_spec, loader = self._loaders.get(module, (None, None))
        if cached_spec is not spec:  # the first time, or after a reload
            code = spec.loader.get_code(spec.name)
            loader = None if code is None else _Loader(spec.name, spec.loader.path, code)
            self._loaders[module] = spec, loader
        return loader


def _paths(spec: ModuleSpec) -> tuple[str | None, list[str] | None]:
    return spec.origin, spec.submodule_search_locations


@dataclasses.dataclass(frozen=True)
class CachingSandboxRunner(SandboxedWorkflowRunner):
    """The SDK's sandbox, whose instances compile the SDK's own lines of code only once."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        if self.runner_class is not UnsandboxedWorkflowRunner:
            return super().create_instance(det)  # its instances may run other code anywhere
        instance: WorkflowInstance = caching_instance_class()(
            det, self.runner_class, self.restrictions
        )
        return instance
