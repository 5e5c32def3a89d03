"""`orkestra init`: write a new application from the template beside this module."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import typer

from orkestra.cli.options import write_line
from orkestra.errors import ConfigurationError

_RENAMED: Final = {"gitignore": ".gitignore", "project.toml": "pyproject.toml"}
"""Files with their names in the application: tools would read them in the template, too."""


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Directory to write to; created if missing.")
    ] = Path(),
) -> int:
    """Write a small example application with tests: refunds with approval, for two tenants.

    If one of the files already exists, the command writes none of them.

    Examples:
      orkestra init
      orkestra init shop && cd shop && orkestra dev refunds
    """
    texts = {
        PurePosixPath(*path.parts[:-1], _RENAMED.get(path.name, path.name)): text
        for path, text in _template(files("orkestra.dev") / "template", PurePosixPath())
    }
    existing = [str(path) for path in texts if (directory / path).exists()]
    if existing:
        msg = f"{', '.join(existing)} already exists: choose another directory"
        raise ConfigurationError(msg)
    for path, text in texts.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        write_line(str(target))
    change = "" if directory == Path() else f"cd {directory} && "
    write_line(f"Next: {change}orkestra dev refunds, then follow README.md in another terminal")
    return 0


def _template(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file() and not entry.name.endswith(".pyc"):
            yield path / entry.name, entry.read_text(encoding="utf-8")
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _template(entry, path / entry.name)
