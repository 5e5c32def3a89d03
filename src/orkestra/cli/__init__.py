"""The `orkestra` command.

This module imports nothing but the standard library and our errors, so that a missing extra gets
its own line, and `--help` is quick.
"""

import importlib
import logging
import os
import sys
from typing import Final

from orkestra.errors import MissingExtraError

__all__ = ["main"]

_EXTRA: Final = frozenset({"rich", "typer"})


def main() -> int:
    """Run the command that `sys.argv` names.

    Returns:
        The exit code: 0 for done or healthy, 1 for failed or unhealthy, 2 for bad input and 130
        for Ctrl-C.
    """
    try:
        app = importlib.import_module("orkestra.cli.app")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"orkestra: {MissingExtraError('the command line', 'cli')}\n")
        return 2
    code: int = app.run(sys.argv[1:])
    if "temporalio.worker" in sys.modules:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process here, because a worker that failed may abort it on its way out.

    The SDK's core then replaces the exit code by that of SIGABRT.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
