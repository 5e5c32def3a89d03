"""The real `orkestra` command as a shell runs it, in a directory and environment of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ORKESTRA: Final = Path(sys.executable).with_name("orkestra")
_SETTINGS: Final = ("LANGFUSE_", "ORKESTRA_", "TEMPORAL_")


def clean_environment(home: Path, **variables: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with these."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
    }
    return {**inherited, "HOME": str(home), "COLUMNS": "100", **variables}


class Command:
    """Runs the command in a directory, which is its home, too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end.

        Args:
            arguments: What stands behind `orkestra`.
            variables: Environment variables.
        """
        return subprocess.run(
            [ORKESTRA, *arguments],
            cwd=self.directory,
            env=clean_environment(self.directory, **variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start it, to be signalled and read from; use it as a context manager."""
        return subprocess.Popen(
            [ORKESTRA, *arguments],
            cwd=self.directory,
            env=clean_environment(self.directory, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, name: str, text: str) -> Path:
        """Put a file into the directory."""
        path = self.directory / name
        path.write_text(text)
        return path


def one_line(text: str) -> str:
    """The only line of a text."""
    assert text.endswith("\n")
    [line] = text.splitlines()
    return line
