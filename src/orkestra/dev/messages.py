"""Messages from the worker's process to `orkestra dev`, one line of JSON each."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True)
class Loaded:
    """The application was imported from these files; `trouble` is its error, if any."""

    files: Sequence[str]
    trouble: str | None = None


@dataclass(frozen=True)
class IncompatibleExecution:
    """An open execution that the new code cannot replay, from the event `place` of its history."""

    workflow_id: str
    run_id: str
    workflow_type: str
    namespace: str
    place: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """Result of the replay: `incompatible` lists the first of `count` executions that failed it."""

    replayed: int
    skipped: int
    incompatible: Sequence[IncompatibleExecution]
    count: int


@dataclass(frozen=True)
class Running:
    """The worker polls these queues, for this number of workflow and activity types."""

    queues: Sequence[str]
    workflows: int
    activities: int


WorkerMessage: TypeAlias = Loaded | Checked | Running

_KINDS: Final[dict[str, type[Loaded] | type[Checked] | type[Running]]] = {
    kind.__name__: kind for kind in (Loaded, Checked, Running)
}


def send_message(descriptor: int, message: WorkerMessage) -> None:
    """Write a message to a pipe."""
    line = json.dumps([type(message).__name__, asdict(message)]) + "\n"
    # Not standard output, which belongs to the application's own prints.
    os.write(descriptor, line.encode())


def parse_message(line: bytes) -> WorkerMessage:
    """Read a message."""
    kind, values = json.loads(line)
    if kind == Checked.__name__:
        values["incompatible"] = [IncompatibleExecution(**each) for each in values["incompatible"]]
    return _KINDS[kind](**values)
