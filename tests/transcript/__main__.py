"""From an empty directory to an application that is traced and tested: typed out, and timed.

    python -m tests.transcript [--cold]

It does what a newcomer would do, in a new directory with a virtual environment of its own, and
writes what was typed and what came of it to docs/transcript.md. It installs the wheel that the
sources make, in place of the published one. `--cold` leaves pip's cache aside.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "transcript.md"
PATIENCE: Final = 120.0

HEAD: Final = (
    "# The first ten minutes\n\n"
    "This page shows what a new user types and sees, from an empty directory to a traced and tested"
    " application. `python -m tests.transcript` ran every command and wrote this page; only the"
    " output of `pip` is left out. It took {total:.0f} s in all on a machine with two cores{cache}."
    " The [tutorial](tutorial.md) explains each step."
)

EDIT: Final = ("SMALL = 5_000", "SMALL = 100_000")


@dataclass
class Transcript:
    """Types commands in a directory, and keeps what was typed and printed."""

    directory: Path
    wheel: Path
    environment: dict[str, str]
    parts: list[str] = field(default_factory=list[str])
    total: float = 0.0

    def say(self, text: str) -> None:
        self.parts.append(text)

    def type(self, command: str, *, instead: str | None = None, show: bool = True) -> None:
        """Run a command to its end; `instead` is what is really run."""
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", instead or command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        took = time.monotonic() - started
        self.total += took
        if done.returncode:
            sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        self._keep(f"$ {command}\n{done.stdout if show else ''}", took)

    @contextmanager
    def beside(self, command: str, until: str) -> Iterator["Beside"]:
        """Leave a command running beside what follows."""
        started = time.monotonic()
        log = self.directory / "beside.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                executable=str(self.directory / ".venv" / "bin" / command.split(maxsplit=1)[0]),
            )
        beside = Beside(log)
        try:
            shown = beside.wait_for(until)
            took = time.monotonic() - started
            self.total += took
            self._keep(f"$ {command}\n{shown}", took)
            yield beside
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a line of a file, as an editor would."""
        path = self.directory / file
        text = path.read_text(encoding="utf-8")
        if old not in text:
            sys.exit(f"{old!r} is not in {file}")
        path.write_text(text.replace(old, new), encoding="utf-8")
        self.say(f"```diff\n--- {file}\n-{old}\n+{new}\n```")

    def hear(self, beside: "Beside", until: str) -> None:
        """Show what a command that runs beside has printed since."""
        started = time.monotonic()
        shown = beside.wait_for(until)
        took = time.monotonic() - started
        self.total += took
        self._keep(shown, took)

    def _keep(self, text: str, took: float) -> None:
        clean = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(str(self.directory), "shop")
        self.say(f"```text\n{clean.rstrip()}\n```\n\n{took:.1f} s")


@dataclass
class Beside:
    """The log of what runs beside, read on from where it was read to."""

    log: Path
    seen: int = 0

    def wait_for(self, word: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            text = self.log.read_text(encoding="utf-8")[self.seen :]
            if re.search(word, text):
                self.seen += len(text)
                return text
            time.sleep(0.1)
        sys.exit(f"{word!r} was not printed:\n{self.log.read_text(encoding='utf-8')}")


def build_wheel(into: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", into]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = into.glob("*.whl")
    return wheel


def newcomer(directory: Path) -> dict[str, str]:
    """An environment in which nothing is set up, with the virtual environment activated."""
    ours = ("LANGFUSE_", "ORKESTRA_", "TEMPORAL_", "PYTHON", "VIRTUAL_ENV")
    environment = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
    path = f"{directory / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    return {**environment, "PATH": path, "COLUMNS": "100"}


def play(script: Transcript) -> None:
    """The ten minutes."""
    start = "orkestra start RefundRequest --tenant acme --task-queue refunds"
    extras = "orkestra-core[all]"
    script.say("## Install")
    script.type("python3 -m venv .venv && source .venv/bin/activate")
    wheel = f"{script.wheel}[all]"
    script.type(
        f'pip install "{extras}"',
        instead=f"pip install --quiet --disable-pip-version-check {shlex.quote(wheel)}",
        show=False,
    )
    script.say(
        "## An application\n\n"
        "It pays refunds: small ones immediately, larger ones after a decision."
    )
    script.type("orkestra init")
    with script.beside("orkestra dev refunds", until=r"running .*\n") as dev:
        script.say("Keep it running and type the rest in another terminal.")
        script.type(f"""{start} --id r17 --input '{{"order": "17", "cents": 1200}}' --wait""")
        script.type(f"""{start} --id r18 --input '{{"order": "18", "cents": 90000}}'""")
        script.type("orkestra query r18 waits --tenant acme")
        script.type("orkestra list --tenant acme")
        script.say("Another tenant does not see these workflows.")
        script.type("orkestra list --tenant globex")
        script.type("orkestra signal r18 decide --tenant acme --input true")
        script.type("orkestra trace show r18 --tenant acme")
        script.say("## A change\n\nRaise the limit for small refunds and save the file:")
        script.edit("refunds/workflows.py", *EDIT)
        script.hear(dev, until=r"running .*\n")
        script.type(f"""{start} --id r19 --input '{{"order": "19", "cents": 90000}}' --wait""")
    script.edit("refunds/workflows.py", *reversed(EDIT))
    script.say("## Tests\n\nThe tests run on a real server. Only time is mocked.")
    script.type("pytest --quiet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.transcript", description=__doc__)
    parser.add_argument("--cold", action="store_true", help="ignore the pip cache")
    cold = parser.parse_args().cold
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "shop"
        directory.mkdir()
        environment = newcomer(directory)
        if cold:
            environment["PIP_CACHE_DIR"] = str(Path(folder) / "cache")
        script = Transcript(directory, build_wheel(Path(folder)), environment)
        play(script)
    cache = ", with an empty pip cache" if cold else ""
    text = "\n\n".join([HEAD.format(total=script.total, cache=cache), *script.parts])
    PAGE.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: {script.total:.0f} s\n")


if __name__ == "__main__":
    main()
