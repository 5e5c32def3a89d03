"""What is said of the worker and its code."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orkestra.cli.dev.messages import Checked, Drifted, Running

_NAMED: Final = 3


def format_changed(files: Sequence[Path]) -> str:
    """That files were saved."""
    names = [_relative(file) for file in files]
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{shown}{more} changed: reloading"


def format_broken(trouble: str) -> str:
    """That the application cannot be loaded."""
    return f"{trouble}\nnot running: the next save is tried at once"


def format_ended(code: int) -> str:
    """That the worker ended by itself."""
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"the worker ended {how}: the next save starts it again"


def format_running(message: Running, seconds: float) -> str:
    """That the worker runs."""
    queues = ", ".join(repr(queue) for queue in message.queues)
    what = f"{_count(message.workflows, 'workflow')}, {_count(message.activities, 'activity')}"
    where = "task queue" if len(message.queues) == 1 else "task queues"
    return f"running {what} on {where} {queues} ({seconds:.1f} s)"


def format_unharmed(count: int) -> str:
    """That the open executions can go on."""
    return f"{_count(count, 'open execution')} replayed: the new code can go on with all of them"


def format_checked(found: Checked, *, force: bool) -> str:
    """Which open executions cannot go on, and what to do."""
    lines: list[str] = []
    if found.count:
        lines.append(
            f"NON-DETERMINISTIC EDIT: {_count(found.count, 'open execution')} cannot go on with"
            " this code"
        )
    lines += [
        f"  {each.workflow_type} {each.workflow_id!r} at {each.place}: {each.why}"
        for each in found.drifted
    ]
    if found.count > len(found.drifted):
        lines.append(f"  and {found.count - len(found.drifted)} more")
    if found.left_out:
        left = _count(found.left_out, "open execution")
        lines.append(f"{left} not replayed: the new code may not suit them")
    if found.count and force:
        lines.append("running all the same (--force): their tasks will fail until this is mended")
    elif found.count:
        lines.append(
            "not running until this is mended: undo the edit, guard it by workflow.patched(), or"
            " end them:"
        )
        lines.append(f"  {_terminate(found.drifted[0])}")
    return "\n".join(lines)


def _terminate(drifted: Drifted) -> str:
    namespace = "" if drifted.namespace == "default" else f" --namespace {drifted.namespace}"
    return f"orkestra terminate {shlex.quote(drifted.workflow_id)} --all-tenants{namespace}"


def _relative(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what.removesuffix('y')}ies" if what.endswith("y") else f"{number} {what}s"
