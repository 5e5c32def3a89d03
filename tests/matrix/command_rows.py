"""Rows: what workflow code starts, signals and cancels."""

from typing import Final

from tests.matrix.commands import (
    Test,
    abandoned,
    abandoned_of_another,
    child,
    child_of_another,
    child_signal,
    dropped_elsewhere,
    external_cancel,
    external_signal,
    names_itself,
    refused_elsewhere,
    refused_within,
    renames,
    seen,
    unreachable,
)
from tests.matrix.model import Cell, Check, Impossible, Row

_REFUSED: Final = "by a workflow without Orkestra: refused by the worker that gets it"
_WITHIN: Final = "another tenant's header, written by an interceptor: the sending workflow fails"
_BOTH: Final = f"{_WITHIN}; sent without Orkestra: refused by the worker that gets it"
_DROPPED: Final = "by a workflow without Orkestra: dropped, and the workflow continues"
_OWN: Final = "the ID of another's workflow starts a child under the parent's own prefix"
_NAMES_NOTHING: Final = Impossible(
    "It names no workflow; the directory decides which task queues a tenant may use."
)
_FROM_WITHIN: Final = Impossible(
    "Only the workflow's own worker runs it, with the header that Orkestra has just written."
)
_NO_HEADER: Final = Impossible(
    "The command has no header, so none can be missing or name another tenant."
)
_ITSELF: Final = Impossible("A workflow can write to itself only.")
_PRESENT: Final = Impossible("Workflow code always runs for a tenant, so none can be missing.")


def _row(
    kind: str,
    carried: Test,
    *,
    shows: str,
    missing: Cell,
    mismatch: Cell,
    other: Cell,
    calls: str,
) -> Row:
    return Row(
        kind=kind,
        calls=calls,
        carried=Check(shows, carried),
        missing=missing,
        mismatch=mismatch,
        other=other,
    )


COMMANDS: Final = (
    _row(
        "child workflow",
        child,
        shows="the child sees it; attribute, fairness key and ID prefix show it",
        missing=Check(_REFUSED, refused_elsewhere("child", "TenantRequired")),
        mismatch=Check(
            _BOTH, refused_within("child", refused_elsewhere("child", "TenantMismatch"))
        ),
        other=Check(_OWN, child_of_another),
        calls="outbound.start_child_workflow",
    ),
    _row(
        "abandoned child workflow",
        abandoned,
        shows="the child sees it",
        missing=Check(_REFUSED, refused_elsewhere("abandoned", "TenantRequired")),
        mismatch=Check(
            _BOTH, refused_within("abandoned", refused_elsewhere("abandoned", "TenantMismatch"))
        ),
        other=Check(_OWN, abandoned_of_another),
        calls="outbound.start_child_workflow",
    ),
    _row(
        "signal to a child",
        child_signal,
        shows="the child's handler sees it",
        missing=_PRESENT,
        mismatch=Check(_WITHIN, refused_within("child_signal")),
        other=Impossible("Only a start gives a handle to a child, below the own prefix."),
        calls="outbound.signal_child_workflow",
    ),
    _row(
        "external signal",
        external_signal,
        shows="the handler sees it",
        missing=Check(_DROPPED, dropped_elsewhere(forged=False)),
        mismatch=Check(
            f"{_WITHIN}; sent without Orkestra: dropped, and the workflow continues",
            refused_within("external_signal", dropped_elsewhere(forged=True)),
        ),
        other=Check("it does not exist", unreachable("external_signal")),
        calls="outbound.signal_external_workflow",
    ),
    _row(
        "external cancel",
        external_cancel,
        shows="the runner scopes the ID, and the workflow that is cancelled sees it",
        missing=_NO_HEADER,
        mismatch=_NO_HEADER,
        other=Check("it does not exist", unreachable("external_cancel")),
        calls="",
    ),
    _row(
        "activity",
        seen("activity"),
        shows="the activity sees it",
        missing=Check(_REFUSED, refused_elsewhere("activity", "TenantRequired")),
        mismatch=Check(
            _BOTH, refused_within("activity", refused_elsewhere("activity", "TenantMismatch"))
        ),
        other=_NAMES_NOTHING,
        calls="outbound.start_activity activity.execute_activity",
    ),
    _row(
        "local activity",
        seen("local_activity"),
        shows="the activity sees it",
        missing=_FROM_WITHIN,
        mismatch=Check(_WITHIN, refused_within("local_activity")),
        other=_NAMES_NOTHING,
        calls="outbound.start_local_activity activity.execute_activity",
    ),
    _row(
        "continue-as-new",
        seen("again"),
        shows="the next run sees it",
        missing=Check(
            "by a workflow without Orkestra: the next run is refused by the worker that gets it",
            refused_elsewhere("again_elsewhere", "TenantRequired"),
        ),
        mismatch=Check(
            _BOTH,
            refused_within("again", refused_elsewhere("again_elsewhere", "TenantMismatch")),
        ),
        other=Impossible("The next run has the ID of the run before it."),
        calls="outbound.continue_as_new",
    ),
    _row(
        "upsert of the reserved memo field",
        names_itself("memo"),
        shows="writing the same tenant changes nothing",
        missing=_PRESENT,
        mismatch=Check("writing another tenant fails the workflow", renames("memo")),
        other=_ITSELF,
        calls="",
    ),
    _row(
        "upsert of the reserved search attribute",
        names_itself("attribute"),
        shows="writing the same tenant changes nothing",
        missing=_PRESENT,
        mismatch=Check("writing another tenant fails the workflow", renames("attribute")),
        other=_ITSELF,
        calls="",
    ),
)
