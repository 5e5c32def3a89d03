"""What the demo was asked for."""

from dataclasses import dataclass
from pathlib import Path

from orkestra.config import LangfuseSettings


@dataclass(frozen=True)
class Options:
    """What the demo was asked for.

    Attributes:
        langfuse: Where traces go, if anywhere.
        tickets: File of tickets.
        examples: Folder that holds the example.
        keep: Leave everything up until Ctrl-C.
        workers_log: Show the worker's log.
        as_json: Print JSON to standard output, and everything else to standard error.
    """

    langfuse: LangfuseSettings
    tickets: Path
    examples: Path
    keep: bool
    workers_log: bool
    as_json: bool
