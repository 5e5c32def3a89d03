"""Model of the tenancy matrix: rows are call kinds, columns are what is shown of each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.matrix.side import Side

COLUMNS: Final = {
    "carried": "the code that runs, or the server, sees the caller's tenant",
    "missing": "without a tenant the call is refused",
    "mismatch": "a call in which two places name different tenants is refused",
    "other": "nothing of another tenant can be reached",
    "replay": "the same on a worker without a cache, which replays the history for every task",
}

Run: TypeAlias = Callable[[Side], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """A cell that is shown on the server, for two tenants at once.

    Attributes:
        shows: What has been shown when the check has passed, for the page.
        run: Shows it for one side.
    """

    shows: str
    run: Run


@dataclass(frozen=True)
class Impossible:
    """A cell that cannot exist.

    Attributes:
        why: One sentence.
    """

    why: str


Cell: TypeAlias = Check | Impossible


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of call.

    Attributes:
        kind: Its name.
        calls: Methods of the SDK's interceptors that it covers, as `client.start_workflow`.
        rpcs: RPCs of the workflow service that it covers.
    """

    kind: str
    carried: Cell
    missing: Cell
    mismatch: Cell
    other: Cell
    replay: Cell | None = None
    calls: str = ""
    rpcs: str = ""

    def cell(self, column: str) -> Cell:
        """The cell of a column; replay shows what `carried` shows, on another worker."""
        found: Cell | None = getattr(self, column)
        return self.carried if found is None else found


NO_CODE: Final = Impossible("No workflow code takes part in it, so there is nothing to replay.")
