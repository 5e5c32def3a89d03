"""The documentation as its readers get it: built once, then looked at page by page."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import orkestra.errors
from orkestra.cli.app import _COMMANDS
from orkestra.errors import ConnectionFailureReason, OrkestraError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLIC = (
    "orkestra",
    "orkestra.config",
    "orkestra.devserver",
    "orkestra.doctor",
    "orkestra.langfuse",
    "orkestra.testing",
    "orkestra.dev.tracepage",
)
LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
}


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, and which anchors it has."""

    anchors: set[str] = field(default_factory=set[str])
    links: list[str] = field(default_factory=list[str])
    loads: list[str] = field(default_factory=list[str])
    classes: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.classes.update(given.get("class", "").split())
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get("rel") not in {"canonical", "next", "prev", "author"}:
            self.loads += [given[name] for name in LOADED.get(tag, ()) if name in given]


@dataclass(frozen=True)
class Site:
    directory: Path
    output: str
    pages: dict[Path, Page]

    def target(self, page: Path, link: str) -> tuple[Path, str]:
        """The file and the anchor that a link of a page leads to."""
        parts = urlsplit(link)
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        return file, unquote(parts.fragment)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    project = tmp_path_factory.mktemp("documentation").resolve()
    shutil.copy(ROOT / "zensical.toml", project)
    shutil.copytree(DOCS, project / "docs")
    (project / "src").symlink_to(ROOT / "src", target_is_directory=True)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build"],
        cwd=project,
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    printed = built.stdout + built.stderr
    assert built.returncode == 0, printed
    pages: dict[Path, Page] = {}
    for file in sorted((project / "site").rglob("*.html")):
        pages[file] = Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    return Site(project / "site", re.sub(r"\x1b\[[\d;]*m", "", printed), pages)


def is_external(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def nav_files(nav: object) -> Iterator[str]:
    match nav:
        case str():
            yield nav
        case list():
            for entry in nav:
                yield from nav_files(entry)
        case dict():
            for entry in nav.values():
                yield from nav_files(entry)


pytestmark = pytest.mark.timeout(240)  # the first one builds the site


def test_the_site_is_built_without_a_warning(site: Site) -> None:
    assert "No issues found" in site.output, site.output
    assert site.directory / "index.html" in site.pages


def test_every_link_inside_the_site_leads_to_a_page_and_an_anchor(site: Site) -> None:
    broken: list[str] = []
    checked = 0
    for page, content in site.pages.items():
        if page.name == "404.html":
            continue  # it is served for any address, so its links are absolute
        for link in content.links:
            if is_external(link):
                continue
            checked += 1
            file, anchor = site.target(page, link)
            there = site.pages.get(file)
            if not file.is_file() or (anchor and there and anchor not in there.anchors):
                broken.append(f"{page.relative_to(site.directory)}: {link}")
    assert broken == []
    assert checked > 1000


def test_no_page_loads_anything_from_elsewhere(site: Site) -> None:
    for page, content in site.pages.items():
        assert [each for each in content.loads if is_external(each)] == [], page
        assert "mermaid" not in content.classes, f"{page}: its script would be loaded"
        if page.name != "404.html":
            for each in content.loads:
                assert site.target(page, each)[0].is_file(), f"{page}: {each}"


def test_every_page_can_be_found_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    there = [str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")]
    assert sorted(nav_files(nav)) == sorted(there)


def test_documents_link_to_documents_only() -> None:
    outside = [
        f"{file.relative_to(ROOT)}: {link}"
        for file in sorted(DOCS.rglob("*.md"))
        for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8"))
        if not is_external(link)
        and not (file.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS)
    ]
    assert outside == []


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            if not is_external(link):
                assert (ROOT / link.partition("#")[0]).exists(), f"{name}: {link}"


def objects_in_the_reference(site: Site) -> dict[str, object]:
    found: dict[str, object] = {}
    for page, content in site.pages.items():
        if page.parent.name != "reference":
            continue
        for anchor in content.anchors:
            module, _, name = anchor.rpartition(".")
            if anchor.startswith("orkestra.") and name.isidentifier():
                try:
                    found[anchor] = getattr(importlib.import_module(module), name)
                except ModuleNotFoundError:
                    continue  # a member of a class
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_stands_in_the_reference(site: Site, module: str) -> None:
    described = objects_in_the_reference(site)
    public = importlib.import_module(module)
    missing = [
        name
        for name in public.__all__
        if f"{module}.{name}" not in described
        and all(getattr(public, name) is not each for each in described.values())
    ]
    assert missing == []


def test_every_fixture_stands_in_the_reference(site: Site) -> None:
    text = (ROOT / "src/orkestra/testing/environment.py").read_text(encoding="utf-8")
    fixtures = set(re.findall(r"fixture.*\n(?:async )?def (\w+)", text))
    anchors = site.pages[site.directory / "reference" / "testing.html"].anchors
    assert len(fixtures) >= 7
    assert {f"orkestra.testing.environment.{name}" for name in fixtures} <= anchors


def errors_below(error: type[OrkestraError]) -> Iterator[type[OrkestraError]]:
    yield error
    for each in error.__subclasses__():
        yield from errors_below(each)


def test_the_page_of_errors_has_each_error_and_no_other() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    shown = re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)
    defined = {error.__name__ for error in errors_below(OrkestraError) if error.__name__[0] != "_"}
    assert sorted(shown) == sorted(name for name in defined if hasattr(orkestra.errors, name))


def test_the_page_of_errors_has_each_reason_and_each_type_of_a_refusal() -> None:
    rows = set(
        re.findall(r"^\| `(\w+)` \| (yes|no) \|", (DOCS / "errors.md").read_text(), re.MULTILINE)
    )
    reasons = {
        (each.value, "yes" if each.is_transient else "no") for each in ConnectionFailureReason
    }
    types = {
        getattr(orkestra.errors, name)
        for name in vars(orkestra.errors)
        if name.startswith("TENANT_")
    }
    assert reasons <= rows
    assert {name for name, _ in rows - reasons} == types


def test_the_two_drawings_differ_in_their_colours_only() -> None:
    light, dark = (
        (DOCS / f"architecture-{scheme}.svg").read_text(encoding="utf-8")
        for scheme in ("light", "dark")
    )
    assert light != dark
    colour = re.compile(r"#[0-9a-f]{6}")
    assert colour.sub("", light) == colour.sub("", dark)


def test_the_summary_for_programs_names_what_there_is(site: Site) -> None:
    text = (site.directory / "llms.txt").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert (site.directory / link) in site.pages, link
    names = text.partition("## Names")[2].partition("## Commands")[0]
    found = set(re.findall(r"`(?:await |with |async with )?(\w+)\(", names))
    assert {name for name in found if not hasattr(orkestra, name)} == set()
    commands = text.partition("## Commands")[2].partition("\n## ")[0]
    first_words = re.findall(r"`(?:orkestra )?([a-z][a-z-]*)", commands)
    assert set(first_words) == {*_COMMANDS}
