"""Where a measured process answers."""

import os
import sys
from typing import TextIO


def own_stdout() -> TextIO:
    """Standard output for answers alone: the SDK's core logs there, too, and goes to the other."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out
