"""The pytest plugin, which pytest finds by itself; the fixtures come with the extra `testing`."""

from importlib.util import find_spec
from typing import Final

import pytest

_NEEDED: Final = ("opentelemetry", "opentelemetry.proto", "pytest_asyncio")

# The package may be installed without the extra, and pytest loads this all the same.
pytest_plugins = ["orkestra.testing.environment"] if all(map(find_spec, _NEEDED)) else []


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    group = parser.getgroup("orkestra", "Orkestra")
    group.addoption(
        "--orkestra-histories",
        choices=("replay", "record", "update"),
        default="replay",
        help="What `histories` does: replay files, record those that are missing, or all anew.",
    )
    group.addoption(
        "--orkestra-server",
        metavar="HOST:PORT",
        help="Test on this Temporal server instead of starting one.",
    )
