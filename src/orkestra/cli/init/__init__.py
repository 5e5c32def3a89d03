"""`orkestra init`."""

from orkestra.cli.init.command import init

__all__ = ["init"]
