"""The trace page in a browser: what it shows, by keyboard, and what hostile traces cannot do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from orkestra.dev.tracepage import TracePage
from tests.support.browser import CHROMIUM, Browser, browsing
from tests.support.otlp import Spans

HOSTILE: Final = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(tmp_path: Path, browser: Browser) -> Iterator[TracePage]:
    browser.complaints.clear()
    with TracePage(tmp_path / "traces.db") as made:
        yield made
        browser.open("about:blank")
    assert [each for each in browser.complaints if "ERR_" not in each] == []


def order(
    spans: Spans, trace: int, *, tenant: str = "acme", root: bool = True, **options: Any
) -> Spans:
    """An order whose first attempt to charge failed, with a generation inside the second."""
    number, start = trace * 10, trace * 1000
    about = {"tenant": tenant, "metadata_workflow_type": "Order"}
    charge = {"parent": number, "type": "tool", **about}
    if root:
        name = "workflow:Order"
        spans.add(
            trace, number, name, type="chain", start=start, end=start + 900, **about, **options
        )
    failed = {"level": "ERROR", "status_message": "card declined"}
    spans.add(
        trace, number + 1, "activity:charge", start=start + 10, end=start + 200, **charge, **failed
    )
    spans.add(
        trace,
        number + 2,
        "activity:charge",
        start=start + 300,
        end=start + 800,
        metadata_attempt=2,
        **charge,
    )
    return spans.add(
        trace,
        number + 3,
        "draft",
        parent=number + 2,
        tenant=tenant,
        type="generation",
        start=start + 400,
        end=start + 700,
        model_name="m-1",
        usage_details={"input": 1000, "output": 234},
        input="why?",
        output={"answer": 42},
    )


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText)"
    )
    return found


def count(browser: Browser, selector: str, number: int) -> None:
    browser.wait_for(f"document.querySelectorAll({json.dumps(selector)}).length === {number}")


def shows(browser: Browser, selector: str, text: str) -> None:
    element = f"document.querySelector({json.dumps(selector)})"
    browser.wait_for(f"({element}?.innerText ?? '').includes({json.dumps(text)})")


def test_traces_appear_while_their_workflows_run_and_are_read_by_keyboard_alone(
    page: TracePage, browser: Browser
) -> None:
    browser.open(page.url)
    shows(browser, "#welcome", "Waiting for the first trace")
    shows(browser, "#live", "live")

    order(Spans(), 1, root=False).send(page.url)
    shows(browser, ".item", "incomplete")
    browser.press("ArrowDown", "Enter")
    count(browser, ".row", 4)
    assert texts(browser, ".row .text")[0] == "workflow:Order"
    shows(browser, ".row.ghost", "still runs")
    order(Spans(), 1, input={"id": 7}).send(page.url)
    count(browser, ".row.ghost", 0)
    shows(browser, ".item", "1 error")

    browser.press("Home")
    shows(browser, "#span", '"id": 7')
    browser.press("ArrowDown")
    shows(browser, "#span pre.bad", "card declined")
    browser.press("ArrowDown")
    assert texts(browser, "[aria-selected=true] .extra") == ["attempt 2"]
    browser.press("ArrowLeft")
    count(browser, ".row", 3)
    browser.press("ArrowRight", "ArrowRight")
    shows(browser, "#span h3", "draft")
    shows(browser, "#span .facts", "1000 → 234 tokens")
    shows(browser, "#span", '"answer": 42')
    active = browser.evaluate(
        "document.querySelector('#tree').getAttribute('aria-activedescendant')"
    )
    assert (
        browser.evaluate(f"document.getElementById({active!r}).getAttribute('aria-level')") == "3"
    )
    browser.press("Escape")
    browser.wait_for("location.pathname === '/' && document.activeElement.id === 'traces'")


def test_search_tenants_and_errors_narrow_the_list(page: TracePage, browser: Browser) -> None:
    spans = Spans()
    for number in range(1, 4):
        order(spans, number, tenant="acme")
    spans.add(9, 900, "workflow:Refund", tenant="beta", start=9000, input="needle").send(page.url)
    browser.open(page.url)
    count(browser, ".item", 4)
    assert texts(browser, ".item .name")[0] == "workflow:Refund"
    browser.press("/", *"needle")
    count(browser, ".item", 1)
    browser.press("Escape")
    count(browser, ".item", 4)
    browser.press("Escape", "e")
    count(browser, ".item", 3)
    browser.press("e")
    count(browser, ".item", 4)
    options = texts(browser, "#tenant option")
    assert options == ["all tenants", "acme (3)", "beta (1)"]
    browser.evaluate("tenant.value = 'beta'; tenant.dispatchEvent(new Event('change'))")
    count(browser, ".item", 1)


def test_what_hostile_traces_hold_is_only_ever_text(page: TracePage, browser: Browser) -> None:
    Spans().add(
        1,
        1,
        HOSTILE,
        tenant=HOSTILE,
        type=HOSTILE,
        level="ERROR",
        status_message=HOSTILE,
        input=HOSTILE,
        output=f"</pre>{HOSTILE}",
        model_name=HOSTILE,
        metadata_x=HOSTILE,
    ).send(page.url)
    browser.open(f"{page.url}/trace/{1:032x}")
    count(browser, "#span pre", 3)
    assert texts(browser, ".row .text") == [HOSTILE]
    assert texts(browser, "#span pre")[0] == HOSTILE
    assert HOSTILE in browser.evaluate("document.querySelector('#tenant').innerText")
    assert browser.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert browser.evaluate("window.hacked") is None

    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')"
    )
    browser.evaluate(
        "const made = document.createElement('script'); made.textContent = 'window.hacked=1';"
        "document.body.append(made)"
    )
    assert browser.evaluate("window.hacked") is None
    assert any("Content Security Policy" in each for each in browser.complaints)
    browser.complaints.clear()


def test_parents_that_are_each_others_children_are_shown_all_the_same(
    page: TracePage, browser: Browser
) -> None:
    Spans().add(1, 1, "self", parent=1).add(1, 2, "a", parent=3).add(1, 3, "b", parent=2).send(
        page.url
    )
    browser.open(f"{page.url}/trace/{1:032x}")
    count(browser, ".row", 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window_and_text_stands_out(
    page: TracePage, browser: Browser, tmp_path: Path, scheme: str, width: int
) -> None:
    order(Spans(), 1, input="word " * 500).send(page.url)
    browser.prefer(scheme)
    browser.resize(width, 800)
    browser.open(f"{page.url}/trace/{1:032x}")
    count(browser, ".row", 4)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    lightness = "(c) => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765"
    contrast = browser.evaluate(
        f"Math.abs(({lightness})(getComputedStyle(document.body).color)"
        f" - ({lightness})(getComputedStyle(document.body).backgroundColor))"
    )
    assert contrast > 0.7
    dark = browser.evaluate(f"({lightness})(getComputedStyle(document.body).backgroundColor) < 0.5")
    assert dark is (scheme == "dark")
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000
    browser.resize(1280, 800)
    browser.prefer("light")
