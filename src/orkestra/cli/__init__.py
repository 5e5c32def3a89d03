"""The `orkestra` command.

This module imports nothing of the extra, so that where it is missing a line says so.
"""

import importlib
import logging
import os
import sys
from typing import Final, NoReturn

from orkestra.errors import MissingExtraError

__all__ = ["main"]

_EXTRA: Final = frozenset({"rich", "typer"})


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and end the process.

    The exit code is 0 for done or healthy, 1 for failed or unhealthy, 2 for bad input and 130 for
    Ctrl-C.
    """
    code = _run()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not sys.exit(): threads of the SDK's core that still connect or poll, after a failure, abort
    # the interpreter on its way out, and the exit code is SIGABRT's then.
    os._exit(code)


def _run() -> int:
    try:
        app = importlib.import_module("orkestra.cli.app")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"orkestra: {MissingExtraError('The command line', 'cli')}\n")
        return 2
    code: int = app.run(sys.argv[1:])
    return code
