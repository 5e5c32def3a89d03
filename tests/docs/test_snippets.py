import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from orkestra.devserver import DevServer
from tests.docs.snippets import Snippet, Workspace, snippets_of
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [snippet for document in DOCUMENTS for snippet in snippets_of(document)]
RUN = [snippet for snippet in SNIPPETS if snippet.mark != "not run"]


def name_of(snippet: Snippet) -> str:
    return f"{snippet.document.relative_to(ROOT)}:{snippet.line}"


class Page:
    """The snippets of a document, of which each is run once and after all before it."""

    def __init__(self, workspace: Workspace, snippets: Sequence[Snippet]) -> None:
        self.workspace = workspace
        self._left = list(snippets)

    def run(self, snippet: Snippet) -> None:
        """Run a snippet; first what it builds on, where that was not selected or ran elsewhere."""
        try:
            while snippet in self._left:
                self._run(self._left.pop(0))
        finally:
            if not self._left:
                self.workspace.close()

    def _run(self, snippet: Snippet) -> None:
        try:
            if snippet.mark != "not run":
                self.workspace.run(snippet)
        except AssertionError as error:
            raise AssertionError(f"{snippet.document}:{snippet.line}: {error}") from error


@pytest.fixture(scope="module")
def page_of(
    dev_server: DevServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Page]]:
    pages: dict[Path, Page] = {}

    def page_of(document: Path) -> Page:
        if document not in pages:
            directory = tmp_path_factory.mktemp(document.stem)
            workspace = Workspace(directory=directory, address=dev_server.address)
            pages[document] = Page(workspace, [s for s in SNIPPETS if s.document == document])
        return pages[document]

    yield page_of
    for page in pages.values():
        page.workspace.close()


@pytest.mark.parametrize("snippet", RUN, ids=name_of)
async def test_a_snippet_does_what_its_document_says(
    snippet: Snippet, page_of: Callable[[Path], Page]
) -> None:
    await asyncio.to_thread(page_of(snippet.document).run, snippet)


def test_a_snippet_that_is_left_out_says_why() -> None:
    silent = [name_of(s) for s in SNIPPETS if s.mark == "not run" and not s.reason]
    assert not silent, "say why: <!-- not run: the reason -->"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace(directory=tmp_path, address="127.0.0.1:7233")
    yield workspace
    workspace.close()


def run(workspace: Workspace, markdown: str) -> None:
    document = workspace.directory / "document.md"
    document.write_text(markdown)
    for snippet in snippets_of(document):
        workspace.run(snippet)


def test_later_snippets_use_the_files_of_earlier_ones(workspace: Workspace) -> None:
    run(workspace, "```python\n# app/words.py\nGREETING = 'hello'\n```\n")
    run(workspace, "```python\nfrom app.words import GREETING\nassert GREETING == 'hello'\n```\n")
    run(workspace, "```toml\n# orkestra.toml\nx = 1\n```\n\n```bash\ngrep x orkestra.toml\n```\n")


FILE_THEN_ITS_USE = (
    "```toml\n# orkestra.toml\nx = 1\n```\n\n```bash\ncat orkestra.toml >> seen\n```\n"
)


def page(workspace: Workspace, markdown: str) -> tuple[Page, list[Snippet]]:
    document = workspace.directory / "page.md"
    document.write_text(markdown)
    snippets = list(snippets_of(document))
    return Page(workspace, snippets), snippets


def test_a_snippet_alone_is_run_after_those_before_it_and_each_once(workspace: Workspace) -> None:
    made, [_, use, again] = page(workspace, FILE_THEN_ITS_USE + "\n```bash\ngrep x seen\n```\n")
    seen = workspace.directory / "seen"
    made.run(use)
    assert seen.read_text().count("x = 1") == 1
    made.run(use)
    made.run(again)
    assert seen.read_text().count("x = 1") == 1


def test_a_failure_names_the_snippet_that_failed_and_not_the_one_that_was_asked_for(
    workspace: Workspace,
) -> None:
    made, [_, last] = page(workspace, "```bash\nfalse\n```\n\n```bash\ntrue\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1: exit 1"):
        made.run(last)


def test_a_page_ends_what_runs_in_the_background_with_its_last_snippet(
    workspace: Workspace,
) -> None:
    background = "<!-- in the background -->\n```bash\nexit 3\n```\n"
    made, [first, last] = page(workspace, f"{background}\n```bash\ntrue\n```\n")
    made.run(first)
    workspace.background[0].wait(PATIENCE)
    with pytest.raises(AssertionError, match="exit 3"):
        made.run(last)


def test_the_server_is_the_one_of_the_tests(workspace: Workspace) -> None:
    run(workspace, "```console\n$ echo $TEMPORAL_ADDRESS\n127.0.0.1:7233\n```\n")


@pytest.mark.parametrize(
    ("markdown", "complaint"),
    [
        ("```python\nraise SystemExit('no')\n```", "exit 1"),
        ("```python\n# app/broken.py\nimport nothing_of_that_name\n```", "nothing_of_that_name"),
        ("```bash\nfalse\ntrue\n```", "exit 1"),
        ("- in a list:\n\n  ```bash\n  exit 7\n  ```", "exit 7"),
        ("```console\n$ echo one\none\n$ echo two\nthree\n```", "three\n\nbut it prints\ntwo"),
    ],
)
def test_a_snippet_that_is_wrong_fails(workspace: Workspace, markdown: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        run(workspace, markdown)


def test_a_snippet_in_the_background_lives_until_the_document_ends(workspace: Workspace) -> None:
    run(workspace, "<!-- in the background -->\n```bash\nsleep 30\n```\n")
    [process] = workspace.background
    assert process.poll() is None
    workspace.close()
    assert process.returncode is not None


def test_another_command_can_stand_in_for_one_in_the_background(workspace: Workspace) -> None:
    run(workspace, "<!-- in the background: echo this > ran -->\n```bash\necho that > ran\n```\n")
    workspace.background[0].wait(PATIENCE)
    assert (workspace.directory / "ran").read_text() == "this\n"


def test_a_snippet_in_the_background_that_failed_is_reported(workspace: Workspace) -> None:
    run(workspace, "<!-- in the background -->\n```bash\nexit 3\n```\n")
    workspace.background[0].wait(PATIENCE)
    with pytest.raises(AssertionError, match="exit 3"):
        workspace.close()


def test_what_is_marked_keeps_its_reason(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("<!-- not run: needs a cloud -->\n\n```bash\nfalse\n```\n")
    [snippet] = snippets_of(document)
    assert (snippet.mark, snippet.reason) == ("not run", "needs a cloud")
