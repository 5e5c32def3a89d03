"""Which modules a workflow's sandbox passes through, and where workflow code is found.

Installed packages pass through: importing them again for each workflow costs more than the
workflow itself, and many (httpx, for one) cannot be imported inside at all. The packages that hold
the workflows are always imported again, so that no state leaks from one workflow to another.
"""

import dataclasses
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orkestra.config import SandboxSettings
from orkestra.temporal.sandbox.code import keep_code
from orkestra.temporal.sandbox.frugal import FrugalSandbox, is_known

_ALWAYS: Final = "orkestra"
_MODULE_SUFFIXES: Final = (".py", ".so", ".pyd")


def sandbox_runner(
    runner: SandboxedWorkflowRunner, workflows: Iterable[type], settings: SandboxSettings
) -> SandboxedWorkflowRunner:
    """The runner with this policy's modules passed through besides its own.

    Args:
        runner: A sandboxed runner, its class and other restrictions are kept.
        workflows: The workflow classes of the worker.
        settings: What to pass through or to reload besides.

    Returns:
        A runner of the same kind.
    """
    reloaded = {workflow.__module__.partition(".")[0] for workflow in workflows}
    passed = (installed_packages() - reloaded - set(settings.reload)) | {_ALWAYS}
    restrictions: SandboxRestrictions = runner.restrictions.with_passthrough_modules(
        *passed, *settings.passthrough
    )
    if type(runner) is SandboxedWorkflowRunner and is_known():
        keep_code()
        runner = FrugalSandbox(runner_class=runner.runner_class)
    return dataclasses.replace(runner, restrictions=restrictions)


@cache
def installed_packages() -> frozenset[str]:
    """Top-level names under site-packages; editable installs are not there and do not count."""
    roots = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    return frozenset(
        name
        for root in roots
        if root.is_dir()
        for entry in root.iterdir()
        if (name := _module(entry))
    )


def _module(entry: Path) -> str | None:
    """The module name of a file or folder of site-packages; namespace packages count."""
    name = entry.name.partition(".")[0]
    is_module = entry.is_dir() or entry.suffix in _MODULE_SUFFIXES
    return name if is_module and name.isidentifier() and "-info" not in entry.name else None
