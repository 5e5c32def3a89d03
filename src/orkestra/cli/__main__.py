"""`python -m orkestra.cli` is `orkestra`."""

import sys

from orkestra.cli import main

sys.exit(main())
