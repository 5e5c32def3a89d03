"""The load beside the tests: it ends with the command, which runs until it fails."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("script", "runs", "code"), [("true", 2, 0), ("exit 3", 1, 3)])
def test_a_command_runs_until_it_fails_beside_processes_that_end_with_it(
    tmp_path: Path, script: str, runs: int, code: int
) -> None:
    note = tmp_path / "runs"
    # Whoever still ran would hold the pipe, and the test would wait for its end.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.load", "--share", "0.1", "--runs", "2", "--"),
            *("sh", "-c", f"echo run >> {note}; {script}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert note.read_text().split() == ["run"] * runs
    assert done.stdout.splitlines()[-1].startswith(f"Run {runs} of 2: exit code {code} after ")
