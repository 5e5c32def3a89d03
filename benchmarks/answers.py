"""Output of a measured process."""

import os
import sys
from typing import TextIO


def own_stdout() -> TextIO:
    """Reserve standard output for answers; the log of the SDK's core moves to standard error."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out
