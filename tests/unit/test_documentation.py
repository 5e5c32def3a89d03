"""The documents keep up with the code."""

import re
import tomllib
from pathlib import Path

import pytest

from orkestra import OrkestraConfig
from orkestra.config import TenantSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]


@pytest.mark.parametrize("section", OrkestraConfig.model_fields)
def test_every_setting_is_documented_in_its_section(section):
    text = (ROOT / "docs/configuration.md").read_text()
    [chapter] = re.findall(rf"^## `{section}`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    annotation = OrkestraConfig.model_fields[section].annotation
    model = TenantSettings if section == "tenants" else annotation
    missing = [name for name in model.model_fields if not re.search(rf"\b{name}\b", chapter)]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_every_extra_that_a_file_names_exists():
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )
    files = [
        *DOCUMENTS,
        ROOT / "docs/llms.txt",
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("src/**/*.toml"),
    ]
    named = {
        (extra, f"{file.relative_to(ROOT)}: {line}")
        for file in files
        for line in file.read_text().splitlines()
        if "orkestra-core[" in line
        # Other extras may follow the one that is installed: `# or [cli]`.
        for names in re.findall(r"\[([a-z,]+)\](?!\()", line)
        for extra in names.split(",")
    }
    assert {each for each in named if each[0] not in extras} == set()
    assert {extra for extra, _ in named} == extras
