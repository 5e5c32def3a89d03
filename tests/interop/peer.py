"""A TypeScript worker and client in a process of its own, and the packages that it needs.

`python -m tests.interop.peer` installs the packages, and fails where that cannot be done.
"""

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.support.waiting import PATIENCE

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "interop.md"
CACHE = HERE.parents[1] / ".cache" / "interop"
OLDEST_NODE = (20, 3)
INSTALL_SECONDS = 400
# The start bundles the workflows, which takes seconds by itself.
START_SECONDS = 2 * PATIENCE
ANSWER_SECONDS = PATIENCE

_FILE = re.compile(r"// ([\w-]+\.ts)\n")


def install() -> Path:
    """The packages of `package.json`, installed once; skips where that cannot be done.

    Whoever installs at the same time does so in another folder, and the first to finish wins.
    """
    _require_node()
    manifest = HERE / "package.json"
    installed = CACHE / hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    if not installed.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            made = Path(directory) / "made"
            made.mkdir()
            shutil.copy(manifest, made)
            _npm_install(made)
            if not installed.exists():
                made.rename(installed)
    return installed / "node_modules"


def _require_node() -> None:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip("TypeScript's SDK needs node and npm, and they are not on PATH")
    printed = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", printed)[:2])
    if version < OLDEST_NODE:
        pytest.skip(f"TypeScript's SDK needs Node 20.3 or newer, and this is {printed.strip()}")


def _npm_install(directory: Path) -> None:
    quiet = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        subprocess.run(
            ["npm", "install", *quiet],
            cwd=directory,
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install TypeScript's SDK in {INSTALL_SECONDS} s")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm could not install TypeScript's SDK: {error.stderr.strip()[-300:]}")


def documented() -> Iterator[tuple[str, str]]:
    """The TypeScript files that the documentation shows, by name."""
    for token in MarkdownIt().parse(DOCUMENT.read_text(encoding="utf-8")):
        named = _FILE.match(token.content) if token.type == "fence" else None
        if named:
            yield named[1], token.content


class Peer:
    """The process: its worker runs on `task_queue`, its client does what it is asked."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path, task_queue: str) -> None:
        self.task_queue = task_queue
        self._process = process
        self._errors = errors
        self._turn = asyncio.Lock()

    async def call(self, name: str, **options: Any) -> None:
        """Make a call of TypeScript's client, for the tenant in the options if there is one."""
        assert self._process.stdin is not None
        async with self._turn:
            self._process.stdin.write(json.dumps({"call": name, **options}).encode() + b"\n")
            await self.answer(ANSWER_SECONDS)

    async def answer(self, seconds: float) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        assert line, f"the TypeScript process ended: {self._errors.read_text()}"
        assert json.loads(line) == {}

    async def end(self) -> None:
        """Let the worker end in order, as it does when its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        assert self._process.returncode == 0, self._errors.read_text()


@asynccontextmanager
async def running_peer(
    directory: Path, *, packages: Path, address: str, task_queue: str
) -> AsyncIterator[Peer]:
    """Write its files into the directory, start it, and end it."""
    (directory / "node_modules").symlink_to(packages)
    for name in ("package.json", "peer.mjs", "workflows.js"):
        shutil.copy(HERE / name, directory)
    for name, text in documented():
        (directory / name).write_text(text, encoding="utf-8")
    errors = directory / "stderr.txt"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *("node", "peer.mjs", address, task_queue),
            cwd=directory,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    peer = Peer(process, errors, task_queue)
    try:
        await peer.answer(START_SECONDS)
        yield peer
    finally:
        await peer.end()


if __name__ == "__main__":
    install()
