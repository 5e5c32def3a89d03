"""Which files make up an application, and when they change."""

import asyncio
import contextlib
import importlib.util
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType] - of anyio

from orkestra.errors import ConfigurationError

_SETTLING_MS: Final = 100
_LONGEST_MS: Final = 1000
_SUFFIX: Final = ".py"


def find_application(name: str) -> list[Path]:
    """Find the folders of a module or package, without importing it.

    Args:
        name: Its dotted name.

    Returns:
        The folders of its top-level package, or the file of its top-level module.

    Raises:
        ConfigurationError: There is no such module.
    """
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    if spec is not None and spec.has_location and spec.origin:
        return [Path(spec.origin)]
    msg = f"module {name!r} does not exist: give a dotted name that can be imported from here"
    raise ConfigurationError(msg)


class Watcher:
    """Notices changes of source files."""

    def __init__(self, roots: Collection[Path], *, also: Collection[Path] = ()) -> None:
        """Watch; nothing is noticed until `run()` runs.

        Args:
            roots: Folders, whose modules count at any depth, and single files.
            also: More files.
        """
        self._folders = [root for root in roots if not root.is_file()]
        self._files = {root for root in (*roots, *also) if root not in self._folders}
        self._changed: dict[Path, None] = {}
        self._known: dict[Path, int] = {}
        self._noticed = asyncio.Event()
        self._restart = asyncio.Event()

    def add_files(self, files: Iterable[str]) -> None:
        """Watch more files, where they are not below the folders already."""
        new = {Path(file) for file in files} - self._files
        if any(not self._is_below(file) for file in new):
            self._restart.set()
        self._files |= new

    @property
    def has_changes(self) -> bool:
        """Whether there are changes that `next()` has not told of."""
        return bool(self._changed)

    async def wait(self) -> None:
        """Wait until there are changes."""
        await self._noticed.wait()

    async def next(self) -> list[Path]:
        """Wait for changes, and return the files of all since the last time."""
        await self._noticed.wait()
        self._noticed.clear()
        changed = list(self._changed)
        self._changed.clear()
        return changed

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began = time.time_ns()
            self._restart.clear()
            places = self._places()
            async for changes in awatch(
                *places,
                watch_filter=self._counts,
                step=_SETTLING_MS,
                debounce=_LONGEST_MS,
                stop_event=self._restart,
                recursive=False,
            ):
                self._notice(Path(path) for _, path in changes)
                if self._places() != places:
                    break
            # What was saved between two watches.
            self._notice(file for file in self._all_files() if _modified(file) > began)

    def _notice(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if self._known.get(path) != (modified := _modified(path)):
                self._known[path] = modified
                self._changed[path] = None
        if self._changed:
            self._noticed.set()

    def _counts(self, change: Change, path: str) -> bool:
        file = Path(path)
        if file in self._files:
            return True
        if file.suffix == _SUFFIX:
            return self._is_below(file)
        return change is Change.added and self._is_below(file) and _is_source_folder(file)

    def _is_below(self, file: Path) -> bool:
        return any(file.is_relative_to(folder) for folder in self._folders)

    def _places(self) -> set[Path]:
        """Folders to watch, each by itself: what lies among them may be huge."""
        places = {file.parent for file in self._files}
        for folder in self._folders:
            places.update(_source_folders(folder))
        return {place for place in places if place.is_dir()}

    def _all_files(self) -> Iterator[Path]:
        for place in self._places():
            with contextlib.suppress(OSError):
                yield from (f for f in place.iterdir() if self._counts(Change.modified, str(f)))


def _source_folders(folder: Path) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        yield place
        with contextlib.suppress(OSError):
            waiting += filter(_is_source_folder, place.iterdir())


def _is_source_folder(path: Path) -> bool:
    return path.name.isidentifier() and path.name != "__pycache__" and path.is_dir()


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
