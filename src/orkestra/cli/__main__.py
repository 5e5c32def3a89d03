"""Entry point of `orkestra` and of `python -m orkestra.cli`.

This module imports nothing of the extra `cli`, so that a missing extra is reported in one line.
"""

import importlib
import logging
import os
import sys
from typing import Final, NoReturn

from orkestra.errors import MissingExtraError

_EXTRA_PACKAGES: Final = frozenset({"rich", "typer"})


def main() -> NoReturn:
    """Run the command in `sys.argv`, and end the process.

    The exit code is 0 for done or healthy, 1 for failed or unhealthy, 2 for bad input and 130 for
    Ctrl-C.
    """
    code = _run()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not sys.exit(): after a failure, threads of the SDK's core may still connect or poll. They
    # abort an interpreter that exits, and its exit code becomes that of SIGABRT.
    os._exit(code)


def _run() -> int:
    try:
        app = importlib.import_module("orkestra.cli.app")
    except ModuleNotFoundError as error:
        # Any other missing module is a defect, whose traceback is needed.
        if error.name not in _EXTRA_PACKAGES:
            raise
        sys.stderr.write(f"orkestra: {MissingExtraError('The command line', 'cli')}\n")
        return 2
    code: int = app.run(sys.argv[1:])
    return code


if __name__ == "__main__":
    main()
