"""What systemd is told by a service of `Type=notify`; nothing where it did not start us."""

import os
import socket
from collections.abc import Mapping
from typing import Final

from orkestra.temporal.lifecycle.status import Stage, Status

_SHARE_OF_WATCHDOG: Final = 2


class Systemd:
    """The socket that `NOTIFY_SOCKET` names.

    Args:
        environment: The process's environment.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._told = ""
        watchdog = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds: float | None = None
        if watchdog.isdigit() and int(watchdog) and is_ours and path:
            self.watchdog_seconds = int(watchdog) / 1e6 / _SHARE_OF_WATCHDOG

    def tell(self, status: Status) -> None:
        """Say what has changed, and that the event loop runs."""
        words = _WORDS[status.stage] if status.stage is not Stage.RUNNING or status.is_ready else ""
        reason = str(status.readiness().get("reason", "")).replace("\n", " ")
        told = f"{words}STATUS={status.stage}{': ' if reason else ''}{reason}\n"
        self._send(("" if told == self._told else told) + "WATCHDOG=1")
        self._told = told

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(0)
            try:
                out.sendto(message.encode(), self._address)
            except OSError:
                return  # a manager that does not listen is no reason to stop working


_WORDS: Final = {
    Stage.STARTING: "",
    Stage.RUNNING: "READY=1\n",
    Stage.DRAINING: "STOPPING=1\n",
    Stage.STOPPED: "STOPPING=1\n",
}
