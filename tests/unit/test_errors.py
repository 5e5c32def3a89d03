"""What a traceback says beside the message."""

import re
from pathlib import Path

import pytest

import orkestra
from orkestra.errors import MissingExtraError, OrkestraError, TenantMismatchError

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
EXPLAINED = set(re.findall(r"^#+ (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


class OwnError(TenantMismatchError):
    """One of an application's own."""


def test_an_error_says_where_it_is_explained_and_its_message_stays_one_line():
    error = MissingExtraError("This", "cli")
    assert str(error).count("\n") == 0
    assert error.__notes__ == [
        "Explained in Orkestra's documentation: errors.html#missingextraerror"
    ]


def test_an_error_of_ones_own_is_explained_by_the_one_it_is_a_kind_of():
    assert OwnError("no").__notes__[0].endswith("#tenantmismatcherror")


@pytest.mark.parametrize("name", [name for name in orkestra.__all__ if name.endswith("Error")])
def test_what_an_error_points_to_is_there(name: str):
    assert issubclass(getattr(orkestra, name), OrkestraError)
    assert name in EXPLAINED
