"""What the worker's process tells the one that watches it, a line of JSON each."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True)
class Loaded:
    """The application is imported and valid, or not.

    Attributes:
        files: Source files that were imported.
        trouble: What is wrong with it; None where it can run.
    """

    files: Sequence[str]
    trouble: str | None = None


@dataclass(frozen=True)
class Drifted:
    """An open execution cannot go on with the new code.

    Attributes:
        workflow_id: Its workflow ID.
        run_id: Its run.
        workflow_type: Its type.
        namespace: Where it is.
        place: The event of its history where the code departs from it.
        why: How.
    """

    workflow_id: str
    run_id: str
    workflow_type: str
    namespace: str
    place: str
    why: str


@dataclass(frozen=True)
class Checked:
    """Open executions were replayed against the new code.

    Attributes:
        replayed: How many.
        left_out: How many more there are.
        drifted: Those that cannot go on, at most a handful.
        count: How many those are.
    """

    replayed: int
    left_out: int
    drifted: Sequence[Drifted]
    count: int


@dataclass(frozen=True)
class Running:
    """The worker polls.

    Attributes:
        queues: Its task queues.
        workflows: How many workflow types it runs.
        activities: How many activity types.
    """

    queues: Sequence[str]
    workflows: int
    activities: int


Told: TypeAlias = Loaded | Checked | Running

_KINDS: Final[dict[str, type[Loaded] | type[Checked] | type[Running]]] = {
    kind.__name__: kind for kind in (Loaded, Checked, Running)
}


def tell(descriptor: int, message: Told) -> None:
    """Write a message to a pipe."""
    line = json.dumps([type(message).__name__, asdict(message)]) + "\n"
    os.write(descriptor, line.encode())


def understand(line: bytes) -> Told:
    """Read a message."""
    kind, values = json.loads(line)
    if kind == Checked.__name__:
        values["drifted"] = [Drifted(**each) for each in values["drifted"]]
    return _KINDS[kind](**values)
