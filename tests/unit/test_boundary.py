"""Every rule of the tenant boundary has a test that is its attack, and a line for users."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/trust-boundary.md"
RULES = [f"B{number}" for number in range(1, 26)]


def attacks() -> Iterator[str]:
    """The rules that tests are named after: `test_b07_a_cloned_client_...` is one of B7."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for number in re.findall(r"def test_b(\d\d)_", path.read_text(encoding="utf-8")):
            yield f"B{int(number)}"


def test_every_rule_has_a_test_that_is_its_attack():
    assert sorted(set(RULES) - set(attacks())) == []


def test_no_test_is_named_after_a_rule_that_does_not_exist():
    assert set(attacks()) <= set(RULES)


def test_every_rule_has_one_line_in_the_page_in_order():
    found = re.findall(r"^- \*\*(B\d+)\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == RULES
