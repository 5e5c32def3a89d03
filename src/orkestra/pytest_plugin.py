"""Plugin that pytest loads by itself; its fixtures need the extra `testing`."""

from importlib.util import find_spec
from typing import Final

import pytest

_NEEDED: Final = ("opentelemetry", "opentelemetry.proto", "pytest_asyncio")

# pytest loads this module even if the package is installed without the extra.
pytest_plugins = ["orkestra.testing.environment"] if all(map(find_spec, _NEEDED)) else []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the test kit."""
    group = parser.getgroup("orkestra", "Orkestra")
    group.addoption(
        "--orkestra-histories",
        choices=("replay", "record", "update"),
        default="replay",
        help="Replay recorded histories, record missing ones, or record all of them again.",
    )
    group.addoption(
        "--orkestra-server",
        metavar="HOST:PORT",
        help="Use this Temporal server instead of starting one.",
    )
