"""Modules that a sandbox loads again get the code that was read for the first of them.

Python looks for a module on its path and reads its code for every run, and compiles it where
bytecode is not written, as in many container images. Who edits a file while a worker runs does not
change, either, what the worker's next workflows do: they run what the worker has loaded.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Final
from weakref import WeakKeyDictionary

from temporalio import workflow

_OF_THE_PROCESS: Final[Mapping[str, ModuleType]] = sys.modules
"""Those outside: within a sandbox, `sys.modules` is another mapping."""


@cache
def keep_code() -> None:
    """Let sandboxes have the code of the process's own modules, from now on."""
    sys.meta_path.insert(0, _KeptCode(_OF_THE_PROCESS))


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
        self._loaders = WeakKeyDictionary[ModuleType, tuple[ModuleSpec, _Loader]]()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See base class."""
        del path, target
        module = self._modules.get(fullname) if workflow.unsafe.in_sandbox() else None
        spec = None if module is None else module.__spec__
        # Other loaders (zip files, rewritten assertions of tests) are asked as ever.
        if module is None or spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        loader = self._loader(module, spec, spec.loader)
        return None if loader is None else spec_from_file_location(fullname, loader=loader)

    def _loader(
        self, module: ModuleType, spec: ModuleSpec, reading: SourceFileLoader
    ) -> _Loader | None:
        kept = self._loaders.get(module)
        if kept is None or kept[0] is not spec:  # a reload has made another
            code = reading.get_code(spec.name)
            if code is None:
                return None
            kept = self._loaders[module] = spec, _Loader(spec.name, reading.path, code)
        return kept[1]
