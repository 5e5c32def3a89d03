"""The command line and environment of `temporal server start-dev`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from orkestra.devserver.ports import HOST

LogLevel = Literal["debug", "info", "warn", "error", "never"]
"""How much the server logs."""

DynamicConfigValue = bool | int | float | str

_FAIRNESS: Final[Mapping[str, DynamicConfigValue]] = {
    "matching.useNewMatcher": True,
    "matching.enableFairness": True,
}
_QUIET: Final[Mapping[str, DynamicConfigValue]] = {
    # It asks a host on the internet for news of itself.
    "frontend.enableServerVersionCheck": False,
}


def server_command(
    binary: Path,
    *,
    port: int,
    ui_port: int | None,
    database: Path | None,
    namespaces: Sequence[str],
    search_attribute: str,
    dynamic_config: Mapping[str, DynamicConfigValue],
    fairness: bool,
    log_level: LogLevel,
) -> list[str]:
    """Write out the command; the arguments are those of `DevServer`."""
    settings = {**_QUIET, **(_FAIRNESS if fairness else {}), **dynamic_config}
    ui = ["--headless"] if ui_port is None else [f"--ui-port={ui_port}", "--ui-disable-news-fetch"]
    return [
        str(binary),
        "server",
        "start-dev",
        f"--ip={HOST}",
        f"--port={port}",
        f"--log-level={log_level}",
        f"--search-attribute={search_attribute}=Keyword",
        *ui,
        *([] if database is None else [f"--db-filename={database}"]),
        *(f"--namespace={namespace}" for namespace in namespaces if namespace != "default"),
        *(f"--dynamic-config-value={key}={json.dumps(value)}" for key, value in settings.items()),
    ]


def server_environment() -> dict[str, str]:
    """The program's environment, without what would configure the server behind its back.

    `TEMPORAL_*` is for clients. From the home directory the `temporal` program reads defaults for
    its options, and it leaves a file there.
    """
    hidden = ("HOME", "XDG_CONFIG_HOME")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("TEMPORAL_")
    }
