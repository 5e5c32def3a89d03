"""`python -m orkestra.cli` is `orkestra`."""

from orkestra.cli import main

main()
