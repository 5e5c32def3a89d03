"""A new application, written from the template beside this module."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import typer

from orkestra.cli.options import write_line
from orkestra.errors import ConfigurationError

_RENAMED: Final = {"gitignore": ".gitignore", "project.toml": "pyproject.toml"}
"""Under their own names they would have a say in the template itself."""


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where to; made where it is missing.")
    ] = Path(),
) -> int:
    """Write a small application with tests: refunds that wait for approval, for two tenants.

    Nothing is asked, and nothing is overwritten: where one of the files exists, none is written.

    Examples:
      orkestra init
      orkestra init shop && cd shop && orkestra dev refunds
    """
    texts = {
        PurePosixPath(*path.parts[:-1], _RENAMED.get(path.name, path.name)): text
        for path, text in _template(files("orkestra.dev") / "template", PurePosixPath())
    }
    taken = [str(path) for path in texts if (directory / path).exists()]
    if taken:
        msg = f"{', '.join(taken)} would be overwritten: choose another directory"
        raise ConfigurationError(msg)
    for path, text in texts.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        write_line(str(target))
    where = "" if directory == Path() else f"cd {directory} && "
    write_line(f"Next: {where}orkestra dev refunds, and in another terminal what README.md says")
    return 0


def _template(folder: Traversable, at: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file() and not entry.name.endswith(".pyc"):
            yield at / entry.name, entry.read_text(encoding="utf-8")
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _template(entry, at / entry.name)
