"""Tests on each Python, with pinned, lowest and newest packages.

`python -m tests.versions` takes the Pythons that uv can install, else those on PATH and of pyenv,
and reports the ones it could not get. Every Python runs the unit tests and a dozen files of
integration tests with the pinned packages. The oldest and the newest Python also run them with the
lowest and the newest packages that pyproject.toml allows.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "versions.md"
UV: Final = Path(sys.executable).with_name("uv")

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
SETS: Final = ("pinned", "lowest", "newest")
SHOWN: Final = ("temporalio", "langfuse", "pydantic", "typer", "pytest")

_INTEGRATION: Final = (
    "connections",
    "global_ids",
    "guard_calls",
    "logs",
    "run_worker",
    "sandbox",
    "tenancy",
    "testing_kit",
    "trace_backfill",
    "tracing",
    "visibility",
    "worker",
)
TESTS: Final = ("tests/unit", *(f"tests/integration/test_{name}.py" for name in _INTEGRATION))


@dataclass(frozen=True)
class Run:
    """One Python with one set of packages, and the result of the tests."""

    python: str
    packages: str
    versions: tuple[str, ...]
    result: str
    passed: bool

    def row(self) -> str:
        return f"| {self.python} | {self.packages} | {', '.join(self.versions)} | {self.result} |"


def find_python(version: str) -> Path | None:
    """Interpreter of a minor version, downloaded by uv if possible."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = [str(each) for each in sorted(versions.glob(f"{version}.*/bin"))]
    environment = {**os.environ, "PATH": os.pathsep.join([*of_pyenv, os.environ["PATH"]])}
    subprocess.run(
        [UV, "python", "install", "--no-bin", "--quiet", version], check=False, capture_output=True
    )
    found = subprocess.run(
        [UV, "python", "find", "--system", "--no-project", version],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def install(python: Path, packages: str, directory: Path) -> Path:
    """Create an environment with a set of packages, and return its Python."""
    ours = directory / "bin" / "python"
    uv_pip = [UV, "pip"]

    def run(*command: str | Path) -> None:
        subprocess.run(command, cwd=ROOT, check=True)

    def install_into(*arguments: str | Path) -> None:
        run(*uv_pip, "install", "--quiet", "--python", ours, *arguments)

    run(UV, "venv", "--quiet", "--python", python, directory)
    match packages:
        case "pinned":
            install_into("--require-hashes", "--no-deps", "--requirement", "requirements.txt")
        case "lowest":
            # The lowest versions of what users install, with tools of the tests that fit.
            lowest = directory / "lowest.txt"
            run(
                *(*uv_pip, "compile", "--quiet", "--python", ours),
                *("--resolution", "lowest-direct", "--all-extras"),
                *("--output-file", lowest, "pyproject.toml"),
            )
            install_into("--requirement", lowest, "--group", "test")
        case _:
            install_into("--prerelease", "allow", "--group", "test", ".[all]")
    install_into("--no-deps", "--no-build-isolation", "--editable", ".")
    return ours


def full_version(python: Path) -> str:
    told = subprocess.run([python, "-V"], check=True, capture_output=True, text=True)
    return told.stdout.split()[1]


def versions_of(python: Path) -> tuple[str, ...]:
    listed = subprocess.run(
        [UV, "pip", "freeze", "--python", python], check=True, capture_output=True, text=True
    )
    versions = dict(re.findall(r"^([\w-]+)==(\S+)$", listed.stdout, re.MULTILINE))
    return tuple(f"{name} {versions[name]}" for name in SHOWN)


def test(python: Path) -> tuple[bool, str]:
    """Run the tests, and print the output if any fail."""
    start = time.monotonic()
    finished = subprocess.run(
        [
            *(python, "-m", "pytest", "--quiet", "--numprocesses", "2", "--dist", "loadfile"),
            *("-p", "no:cacheprovider", *TESTS),
        ],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if finished.returncode:
        print(finished.stdout)
    summary = finished.stdout.splitlines()[-1]
    counts = re.findall(r"\d+ (?:passed|failed|skipped|error)s?", summary)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    return finished.returncode == 0, f"{', '.join(counts) or summary} in {minutes}:{seconds:02}"


def runs(pythons: dict[str, Path], wanted: list[str]) -> Iterator[Run]:
    ends = (min(pythons, default=""), max(pythons, default=""))
    for version, python in pythons.items():
        for packages in wanted:
            if packages != "pinned" and version not in ends:
                continue
            with tempfile.TemporaryDirectory(prefix="orkestra-versions-") as directory:
                print(f"Python {version}, {packages} packages", file=sys.stderr)
                try:
                    ours = install(python, packages, Path(directory))
                except subprocess.CalledProcessError:
                    yield Run(version, packages, (), "cannot be installed", passed=False)
                    continue
                passed, result = test(ours)
                yield Run(full_version(ours), packages, versions_of(ours), result, passed)


def write(table: str) -> None:
    """Replace the table on the page."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = r"(<!-- table -->\n).*(?=<!-- end of table -->)"
    PAGE.write_text(
        re.sub(pattern, lambda found: found[1] + table, text, flags=re.DOTALL), encoding="utf-8"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="only these minor versions")
    parser.add_argument("--packages", nargs="+", default=SETS, choices=SETS, help="only these sets")
    parser.add_argument("--write", action="store_true", help="write the table to docs/versions.md")
    options = parser.parse_args()
    found = {version: find_python(version) for version in options.python}
    pythons = {version: python for version, python in found.items() if python}
    for version in found:
        if version not in pythons:
            print(f"Python {version} is not available, so it is not tested", file=sys.stderr)
    table = ["| Python | packages | among them | tests |", "| --- | --- | --- | --- |"]
    print(*table, sep="\n", flush=True)
    passed = True
    for each in runs(pythons, list(options.packages)):
        print(each.row(), flush=True)
        table.append(each.row())
        passed = passed and each.passed
    if options.write:
        write("\n".join([*table, ""]))
    return 0 if passed and pythons else 1


if __name__ == "__main__":
    sys.exit(main())
