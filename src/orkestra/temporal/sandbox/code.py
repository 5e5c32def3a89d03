"""Modules that a sandbox loads again get the code that was read for the first of them.

Python looks for a module on its path and reads its code for every run, and compiles it where
bytecode is not written, as in many container images. Who edits a file while a worker runs does not
change, either, what the worker's next workflows do: they run what the worker has loaded.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from weakref import WeakKeyDictionary

from temporalio import workflow


@cache
def keep_code() -> None:
    """Let sandboxes have the code of the process's own modules, from now on."""
    # While any sandbox runs, `sys.modules` is one of the SDK's that knows the process's as `orig`.
    kept = _KeptCode(getattr(sys.modules, "orig", sys.modules))
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
