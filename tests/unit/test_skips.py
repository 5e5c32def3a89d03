"""A skip fails in CI, so that a program that is missing there does not hide tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

@pytest.mark.skipif(True, reason="no mark")
def test_by_mark(): ...

def test_by_call():
    pytest.skip("no call")

@pytest.fixture
def without():
    pytest.skip("no fixture")

def test_by_fixture(without): ...

@pytest.mark.xfail(reason="known")
def test_expected():
    raise AssertionError
"""
MODULE = "import pytest\npytest.skip('no module', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("ci", "allowed"), [(True, []), (True, ["test_one.py", "test_two.py"]), (False, [])]
)
def test_skips_fail_in_ci_unless_they_are_listed(
    tmp_path: Path, pytestconfig: pytest.Config, ci: bool, allowed: list[str]
) -> None:
    shutil.copy(pytestconfig.rootpath / "conftest.py", tmp_path)
    with (tmp_path / "conftest.py").open("a") as file:
        file.write(f"\nALLOWED_SKIPS |= dict.fromkeys({allowed!r}, 'a reason')\n")
    (tmp_path / "test_one.py").write_text(SKIPS)
    (tmp_path / "test_two.py").write_text(MODULE)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-ra", "--continue-on-collection-errors"),
            *("-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)),
        ],
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    reasons = ["no mark", "no call", "no fixture", "no module"]
    if ci and not allowed:
        assert "1 failed, 1 xfailed, 3 errors" in done.stdout, done.stdout
        assert all(f"{reason}\nA skip in CI is a failure" in done.stdout for reason in reasons)
    else:
        assert done.returncode == 0, done.stdout
        assert "4 skipped, 1 xfailed" in done.stdout
