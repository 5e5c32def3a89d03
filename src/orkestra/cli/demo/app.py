"""Where the support desk is: beside the package in a wheel, in `examples` in a checkout."""

import sys
from pathlib import Path
from typing import Final

import orkestra
from orkestra.errors import ConfigurationError

APP: Final = "support_desk"
"""The example's package, top-level wherever it lies."""

TICKETS: Final = Path(APP, "tickets.jsonl")
"""The tickets that come with it."""


def examples_directory() -> Path:
    """The folder that holds the example.

    Raises:
        ConfigurationError: It is not there.
    """
    package = Path(orkestra.__file__).resolve().parent
    for folder in (package / "examples", package.parent.parent / "examples"):
        if (folder / APP / "__init__.py").is_file():
            return folder
    msg = f"the example {APP!r} is not installed with orkestra: reinstall orkestra-core"
    raise ConfigurationError(msg)


def make_importable(folder: Path) -> None:
    """Let this process import the example, as its worker does."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
