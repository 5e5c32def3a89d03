import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import orkestra
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "orkestra"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OPTIONAL = {"langfuse", "opentelemetry", "pytest", "pytest_asyncio", "rich", "typer"}


def run_python(code: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        if "template" in file.parts:
            continue  # what `orkestra init` copies is no module
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("the files are not a git work tree")
    for name in filter(None, listed.stdout.split("\0")):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def test_importing_orkestra_imports_no_optional_dependency() -> None:
    loaded = run_python("import sys, orkestra; print(*{m.partition('.')[0] for m in sys.modules})")
    assert OPTIONAL & set(loaded.split()) == set()


def test_the_stub_and_the_package_list_the_same_public_names_and_each_can_be_imported() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    listed = [
        (str(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert listed == sorted(listed)
    assert sorted(name for _, name in listed) == orkestra.__all__
    for module, name in listed:
        assert getattr(orkestra, name) is getattr(importlib.import_module(module), name)


def test_the_version_is_the_same_wherever_it_is_told() -> None:
    version = PYPROJECT["project"]["version"]
    assert importlib.metadata.version("orkestra-core") == version
    assert getattr(orkestra, "__version__", version) == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_holds_the_package_alone_typed_and_working_without_the_sources(
    tmp_path: Path,
) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(
        [*build, "--directory", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=2 * PATIENCE,
    )
    [wheel] = tmp_path.glob("orkestra_core-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    info = f"orkestra_core-{PYPROJECT['project']['version']}.dist-info"
    assert {"orkestra/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert "orkestra/examples/support_desk/tickets.jsonl" in names
    assert {name.partition("/")[0] for name in names} == {"orkestra", info}
    assert {str(file.relative_to(PACKAGE.parent)) for _, file in modules()} <= names

    imported = [name for name, _ in modules() if not name.endswith("__main__")]
    paths = [str(tmp_path), str(tmp_path / "orkestra" / "examples")]
    places = run_python(
        f"""
import importlib, sys
sys.path[:0] = {paths!r}
for name in {imported!r}:
    print(importlib.import_module(name).__file__)
"""
    ).split()
    assert len(places) == len(imported)
    assert all(Path(place).is_relative_to(tmp_path / "orkestra") for place in places)


@pytest.mark.parametrize("place", ["orkestra.errors", "orkestra.tenancy", "orkestra.tracing"])
def test_what_workflow_code_needs_imports_the_standard_library_alone(place: str) -> None:
    allowed = {*sys.stdlib_module_names, "orkestra"}
    foreign = {
        f"{name} -> {imported}"
        for name, file in modules()
        if name == place or name.startswith(f"{place}.")
        for imported in imports_of(file)
        if imported.partition(".")[0] not in allowed
    }
    assert foreign == set()


def test_every_module_stands_in_a_layer() -> None:
    layers: list[str] = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = set(re.findall(r"orkestra[\w.]*", " ".join(layers)))
    outside = {
        name
        for name, file in modules()
        if not any(name == place or name.startswith(f"{place}.") for place in placed)
        and not (file.name == "__init__.py" and any(p.startswith(f"{name}.") for p in placed))
    }
    assert outside == set()


def test_no_file_names_a_registry_or_a_path_of_a_machine() -> None:
    registry = r"\b(pypi|pythonhosted|npmjs|crates|golang)\.(org|com|io)\b"
    machine = r"(?<![\w./-])/(work|farm|opt|root|home)/\w|file:///\w"
    forbidden = re.compile(f"{registry}|{machine}")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def test_pytest_runs_where_the_package_is_installed_without_its_extras(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    code = """
import sys
sys.modules["opentelemetry"] = None
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "."]))
"""

    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "1 passed" in finished.stdout


def test_the_page_of_versions_has_the_bounds_of_the_project_and_a_run_of_each_python() -> None:
    project = PYPROJECT["project"]
    page = (ROOT / "docs" / "versions.md").read_text()
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert set(re.findall(r"^\| (3\.\d+)\.\d+ \|", page, re.MULTILINE)) == set(classified)
    bounds: dict[str, str] = {}
    for names, versions in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", page, re.MULTILINE):
        bounds |= zip(re.findall(r"`(.*?)`", names), versions.split(", "), strict=False)
    extras = project["optional-dependencies"].values()
    for dependency in {*project["dependencies"], *(each for extra in extras for each in extra)}:
        requirement = Requirement(dependency)
        if not requirement.name.startswith(("orkestra-", "temporal-")):
            [lowest] = (each.version for each in requirement.specifier if each.operator == ">=")
            assert bounds[requirement.name].removesuffix(".0") == lowest
