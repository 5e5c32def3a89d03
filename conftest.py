"""Skips in CI: a test that does not run there fails, unless it is listed here with a reason."""

import os
from collections.abc import Generator

import pytest

# A node ID, or the start of one (a file, or a test without its parameters), and the reason.
ALLOWED_SKIPS: dict[str, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at skips by a mark, a fixture or a call."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Look at skips of whole modules."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or "CI" not in os.environ:
        return
    if any(report.nodeid.startswith(allowed) for allowed in ALLOWED_SKIPS):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{reason}\nA skip in CI is a failure: let .ci/run install what is missing."
