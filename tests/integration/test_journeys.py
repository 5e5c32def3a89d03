"""The trip of a reader: how many files and functions of Orkestra run for each operation.

A change that makes one of them longer says why in its commit. `python tests/programs/journeys.py`
prints which files and functions those are.
"""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "programs" / "journeys.py"
PACKAGE = Path(__file__).parents[2] / "src" / "orkestra"

# Files and functions, at most.
BUDGETS = {
    "start": (13, 55),
    "start to span": (32, 275),
    "signal": (21, 103),
    "list": (7, 45),
    "create_worker": (25, 125),
    "stop": (13, 70),
}
# The threads of the outbox and of the sender may finish something else in an operation's time.
OTHERS = 3

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
CHAPTERS = {
    "Start a workflow": "start",
    "Receive a signal": "signal",
    "Send a span": "start to span",
    "Stop a worker": "stop",
}

Journeys = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
async def journeys() -> Journeys:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    walked = json.loads(output)
    assert walked["exit_code"] == 0
    phases: Journeys = walked["phases"]
    return phases


@pytest.mark.parametrize("operation", BUDGETS)
def test_an_operation_runs_in_no_more_files_and_functions_than_its_budget(
    journeys: Journeys, operation: str
) -> None:
    files, functions = BUDGETS[operation]
    walked = journeys[operation]
    assert len(walked) <= files, sorted(walked)
    assert sum(map(len, walked.values())) <= functions + OTHERS, walked


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_architecture_page_names_only_functions_that_run(
    journeys: Journeys, chapter: str
) -> None:
    [text] = re.findall(
        rf"^## {chapter}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    steps = re.findall(r"^\| .* \| `([\w/]+\.py)` \| `([\w.]+)` \|$", text, re.MULTILINE)
    walked = journeys[CHAPTERS[chapter]]
    assert len(steps) == text.count(".py")
    assert [step for step in steps if step[1] not in walked.get(step[0], ())] == []


def test_the_package_has_few_large_modules_and_no_huge_one() -> None:
    lines = {
        str(file.relative_to(PACKAGE)): len(file.read_text().splitlines())
        for file in PACKAGE.rglob("*.py")
        if "template" not in file.parts
    }
    assert len(lines) <= 110
    assert max(lines.values()) < 900, max(lines, key=lambda name: lines[name])
    assert sum(lines.values()) <= 28_500


def test_no_two_modules_of_the_package_have_the_same_name() -> None:
    names = [
        file.name
        for file in PACKAGE.rglob("*.py")
        if "template" not in file.parts and not file.name.startswith("__")
    ]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
