"""Notes of errors, which a traceback shows below the message."""

import re
from pathlib import Path

import pytest

import orkestra
from orkestra.errors import MissingExtraError, OrkestraError, TenantMismatchError

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
EXPLAINED = set(re.findall(r"^#+ (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


class OwnError(TenantMismatchError):
    """One of an application's own."""


def test_an_error_refers_to_its_documentation_and_its_message_is_one_line():
    error = MissingExtraError("This", "cli")
    assert str(error).count("\n") == 0
    assert error.__notes__ == [
        "Explained in Orkestra's documentation: errors.html#missingextraerror"
    ]


def test_a_subclass_of_an_application_refers_to_the_documentation_of_its_base():
    assert OwnError("no").__notes__[0].endswith("#tenantmismatcherror")


@pytest.mark.parametrize("name", [name for name in orkestra.__all__ if name.endswith("Error")])
def test_the_documentation_of_each_error_exists(name: str):
    assert issubclass(getattr(orkestra, name), OrkestraError)
    assert name in EXPLAINED
