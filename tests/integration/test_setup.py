"""The installation that the Makefile does, when every pinned package has a newer release.

The packages come from an index in a directory: wheels without code, which declare the dependencies
that the real packages declare.
"""

import hashlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
UV: Final = Path(sys.executable).with_name("uv")
TOMORROW: Final = "99999"
"""A version of every package that is newer than its pin and needs a package that no pin names."""


def pins() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if re.match(r"\w", line)]


def makefile_commands() -> list[list[str]]:
    """The pip commands of `make setup`, without the one that installs Orkestra itself."""
    dry_run = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        shlex.split(command.partition(" -m pip ")[2])
        for command in dry_run.stdout.splitlines()
        if " -m pip " in command and "--editable" not in command
    ]


def publish(index: Path, name: str, version: str, *more_dependencies: str) -> str:
    """Add a wheel without code to the index, and return its hash."""
    try:
        real = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:  # a pin of another platform
        extras, dependencies = [], []
    else:
        extras = real.get_all("Provides-Extra", [])
        dependencies = real.get_all("Requires-Dist", [])
    metadata = [("Metadata-Version", "2.1"), ("Name", name), ("Version", version)]
    metadata += [("Provides-Extra", extra) for extra in extras]
    metadata += [("Requires-Dist", each) for each in [*dependencies, *more_dependencies]]
    label = f"{name.replace('-', '_')}-{version}"
    page = index / canonicalize_name(name)
    page.mkdir(parents=True, exist_ok=True)
    wheel = page / f"{label}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{label}.dist-info/METADATA",
            "".join(f"{field}: {value}\n" for field, value in metadata),
        )
        archive.writestr(
            f"{label}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{label}.dist-info/RECORD", "")
    with (page / "index.html").open("a") as html:
        html.write(f'<a href="{wheel.name}">{wheel.name}</a>\n')
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def tomorrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an index of tomorrow, and today's pins with the hashes of its wheels."""
    directory = tmp_path_factory.mktemp("tomorrow")
    with (directory / "requirements.txt").open("w") as requirements:
        for pin in pins():
            version = str(pin.specifier).removeprefix("==")
            pinned = publish(directory / "index", pin.name, version)
            publish(directory / "index", pin.name, TOMORROW, "a-dependency-of-tomorrow")
            requirements.write(f"{pin} --hash=sha256:{pinned}\n")
    return directory


def environment(tomorrow: Path) -> dict[str, str]:
    index = (tomorrow / "index").as_uri()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))
    }
    return {
        **inherited,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index,
        "PIP_NO_CACHE_DIR": "1",
        "UV_DEFAULT_INDEX": index,
        "UV_NO_CACHE": "1",
        "UV_NO_CONFIG": "1",
    }


@pytest.fixture(scope="module")
def bundled_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the pip that it bundles."""
    directory = tmp_path_factory.mktemp("bundled")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    return directory / "bin" / "python"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    return tmp_path / "bin" / "python"


def installed(python: Path) -> set[str]:
    code = """
import importlib.metadata
for found in importlib.metadata.distributions():
    print(f"{found.name}=={found.version}")
"""
    listed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def pinned() -> set[str]:
    return {
        f"{pin.name}{pin.specifier}"
        for pin in pins()
        if pin.marker is None or pin.marker.evaluate()
    }


@pytest.fixture(params=["bundled pip", "newest pip", "uv"])
def pip(request: pytest.FixtureRequest, bundled_pip: Path) -> list[str | Path]:
    """A pip command. The newest pip is a pin, which `make lock LOCK=--upgrade` renews."""
    match request.param:
        case "bundled pip":
            return [bundled_pip, "-m", "pip"]
        case "newest pip":
            return [sys.executable, "-m", "pip"]
        case _:
            return [UV, "pip"]


def run(
    tomorrow: Path, python: Path, pip: list[str | Path], command: str, *options: str
) -> subprocess.CompletedProcess[str]:
    option: list[str | Path] = ["--python", python]  # pip takes it only here, uv only there
    target = [command, *option] if UV in pip else [*option, command]
    return subprocess.run(
        [*pip, *target, *options],
        cwd=tomorrow,
        env=environment(tomorrow),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_set_up_installs_the_pins_though_every_package_has_a_newer_release(
    tomorrow: Path, python: Path, pip: list[str | Path]
) -> None:
    install, check = makefile_commands()

    installation = run(tomorrow, python, pip, *install)

    assert installation.returncode == 0, installation.stderr
    assert installed(python) == pinned()
    checked = run(tomorrow, python, pip, *check)
    assert checked.returncode == 0, checked.stdout


def test_uv_can_sync_with_the_pins_though_every_package_has_a_newer_release(
    tomorrow: Path, python: Path
) -> None:
    synced = run(tomorrow, python, [UV, "pip"], "sync", "--require-hashes", "requirements.txt")

    assert synced.returncode == 0, synced.stderr
    assert installed(python) == pinned()


def test_pip_would_refuse_the_pins_if_it_looked_for_dependencies(
    tomorrow: Path, python: Path, bundled_pip: Path
) -> None:
    install, _ = makefile_commands()
    with_dependencies = [option for option in install if option != "--no-deps"]

    refused = run(tomorrow, python, [bundled_pip, "-m", "pip"], *with_dependencies)

    assert refused.returncode == 1
    assert "coverage[toml]" in refused.stderr
