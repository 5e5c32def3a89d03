"""`.orkestra/`: what is kept from one run to the next, beside the application."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orkestra.errors import ConfigurationError

_IGNORE: Final = "# Orkestra's own state: nothing here belongs into a repository.\n*\n"


@dataclass(frozen=True)
class State:
    """The files of a state directory.

    Attributes:
        directory: Where they are.
    """

    directory: Path

    @property
    def temporal(self) -> Path:
        """The Temporal server's database."""
        return self.directory / "temporal.db"

    @property
    def traces(self) -> Path:
        """The trace page's database."""
        return self.directory / "traces.db"

    @property
    def profile(self) -> Path:
        """An empty profile, in place of the one that the `temporal` command uses."""
        return self.directory / "temporal.toml"


@contextmanager
def open_state(directory: Path, *, fresh: bool) -> Generator[State]:
    """Make the directory where there is none, and keep others out of it.

    Args:
        directory: Where the state is.
        fresh: Forget what an earlier run left there.

    Yields:
        Its files.

    Raises:
        ConfigurationError: The directory is in use, or cannot be used.
    """
    state = State(directory)
    try:
        directory.mkdir(exist_ok=True)
        (directory / ".gitignore").write_text(_IGNORE)
        state.profile.write_text("")
        lock = (directory / "lock").open("w")
    except OSError as error:
        msg = f"{str(directory)!r} cannot hold the state of the server: {error}"
        raise ConfigurationError(msg) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"{str(directory)!r} is in use by another `orkestra dev`: end that one first"
            raise ConfigurationError(msg) from error
        if fresh:
            for database in (state.temporal, state.traces):
                for file in directory.glob(f"{database.name}*"):
                    file.unlink()
        yield state
