"""`orkestra init`: what it writes works, and it never writes over anything."""

import subprocess
import sys
from pathlib import Path

from orkestra.devserver import DevServer
from tests.support.command import Command, clean_environment


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def test_the_application_passes_its_own_tests(tmp_path: Path, dev_server: DevServer):
    done = Command(tmp_path).run("init", "shop")
    assert done.returncode == 0, done.stderr
    shop = tmp_path / "shop"
    assert files(shop) == {
        ".gitignore",
        "README.md",
        "orkestra.toml",
        "pyproject.toml",
        "refunds/__init__.py",
        "refunds/activities.py",
        "refunds/models.py",
        "refunds/workflows.py",
        "tests/test_refunds.py",
    }
    assert done.stdout.splitlines()[-1].startswith("Next: cd shop && orkestra dev refunds")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--orkestra-server", dev_server.address],
        cwd=shop,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "6 passed" in tested.stdout


def test_where_one_file_exists_none_is_written(tmp_path: Path):
    (tmp_path / "orkestra.toml").write_text("# mine\n")
    done = Command(tmp_path).run("init")
    assert done.returncode == 2
    assert "orkestra.toml already exists" in done.stderr
    assert files(tmp_path) == {"orkestra.toml"}
    assert (tmp_path / "orkestra.toml").read_text() == "# mine\n"
