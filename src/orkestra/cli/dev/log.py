"""One log for everything: a time, who speaks, and what it says."""

from datetime import datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from orkestra.cli.output import plain

_STYLES: Final = {"orkestra": "bold", "worker": "cyan"}
_WIDTH: Final = 8


class Log:
    """Writes lines to standard output, with colours where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str, *, style: str = "") -> None:
        """Say something ourselves, of one or several lines."""
        for line in text.splitlines():
            self._write("orkestra", Text(plain(line), style))

    def pass_on(self, line: str) -> None:
        """Pass on a line that the application wrote, colours included."""
        self._write("worker", Text.from_ansi(line))

    def _write(self, who: str, text: Text) -> None:
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(
            Text.assemble((now, "dim"), " ", (who.ljust(_WIDTH), _STYLES[who]), " ", text)
        )
