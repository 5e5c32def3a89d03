"""Runs the code blocks of a Markdown document as a reader would, one after the other.

The blocks of one document share a directory and are run in order:

- `python` is run as a script, `bash` as a script that stops at the first failure, and each
  `$ command` of `console` by itself. Output shown below a command has to be what it prints; `...`
  stands for anything.
- A block of any language whose first line is a comment with a file's name, `# app/workflows.py`,
  is written to that file for the blocks after it. Python is imported once, to see that it can be.
- `<!-- in the background -->` above a block lets it run until the end of the document; with
  `: a command` after it, that command is run in its place.
- `<!-- not run: the reason -->` above a block leaves it out.
"""

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

from tests.support.waiting import PATIENCE

SHELLS = frozenset({"bash", "sh", "shell"})
RUN = SHELLS | {"console", "python"}
SECONDS = 120

_FILE = re.compile(r"# ((?:\w[\w.-]*/)*\w[\w.-]*\.\w+)\n")
_MARK = re.compile(r"<!-- *(in the background|not run)(?:: *(.+?))? *-->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    document: Path
    line: int
    language: str
    text: str
    mark: str | None = None
    reason: str | None = None

    @property
    def file(self) -> str | None:
        named = _FILE.match(self.text)
        return named[1] if named else None

    def commands(self) -> Iterator[tuple[list[str], str]]:
        """Each command to run, with the output that the document shows for it."""
        shell = ["bash", "-euo", "pipefail", "-c"]
        if self.file:
            if self.language == "python":
                load = f"import runpy; runpy.run_path({self.file!r}, run_name='snippet')"
                yield [sys.executable, "-c", load], ""
        elif self.language == "python":
            yield [sys.executable, f"snippet_{self.line}.py"], ""
        elif self.mark == "in the background" and self.reason:
            yield [*shell, self.reason], ""
        elif self.language in SHELLS:
            yield [*shell, self.text], ""
        else:
            for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
                command, _, shown = re.sub(r"\\\n(> )?", "", part).partition("\n")
                yield [*shell, command], shown


def snippets_of(document: Path) -> Iterator[Snippet]:
    """The blocks of a document that are run or written to a file, in order."""
    above = None
    for token in MarkdownIt().parse(document.read_text(encoding="utf-8")):
        marked, above = above, None
        if token.type == "html_block":
            above = _MARK.match(token.content)
        elif token.type == "fence":
            language = token.info.partition(" ")[0]
            if language in RUN or _FILE.match(token.content):
                yield Snippet(
                    document=document,
                    line=(token.map or [0])[0] + 1,
                    language=language,
                    text=token.content,
                    mark=marked[1] if marked else None,
                    reason=marked[2] if marked else None,
                )


@dataclass(slots=True, kw_only=True)
class Workspace:
    """The directory that the snippets of one document share, and what they left running."""

    directory: Path
    address: str
    background: list[subprocess.Popen[str]] = field(default_factory=list[subprocess.Popen[str]])

    def run(self, snippet: Snippet) -> None:
        """Write the snippet's file and run its commands, each to its end unless marked."""
        if snippet.file or snippet.language == "python":
            file = self.directory / (snippet.file or f"snippet_{snippet.line}.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(snippet.text, encoding="utf-8")
        for command, shown in snippet.commands():
            if snippet.mark == "in the background":
                self.background.append(self._start(command))
            else:
                self._finish(self._start(command), shown=shown)

    def close(self) -> None:
        """End what runs in the background; it should have run until now, or ended well."""
        failed: list[str] = []
        while self.background:
            process = self.background.pop()
            code = process.poll()
            if code is None:
                os.killpg(process.pid, signal.SIGTERM)
            output = _output(process, seconds=PATIENCE)
            if code:
                failed.append(f"exit {code}: {process.args}\n{output}")
        assert not failed, "\n".join(failed)

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        ours = ("LANGFUSE_", "ORKESTRA_", "TEMPORAL_")
        environment = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment["TEMPORAL_ADDRESS"] = self.address
        environment["PYTHONPATH"] = self._with_pause()
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _with_pause(self) -> str:
        """Where Python finds a pause at exit: scripts of the bare SDK abort there now and then."""
        place = self.directory / ".pause"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(
            "import atexit, time\n\natexit.register(time.sleep, 0.1)\n", encoding="utf-8"
        )
        return str(place)

    def _finish(self, process: subprocess.Popen[str], *, shown: str) -> None:
        printed = _output(process, seconds=SECONDS)
        assert process.returncode == 0, f"exit {process.returncode}: {process.args}\n{printed}"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if shown.strip() and not doctest.OutputChecker().check_output(shown, printed, flags):
            raise AssertionError(f"the document shows\n{shown}\nbut it prints\n{printed}")


def _output(process: subprocess.Popen[str], *, seconds: float) -> str:
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed = process.communicate()[0]
        raise AssertionError(
            f"still running after {seconds} s: {process.args}\n{printed}"
        ) from None
