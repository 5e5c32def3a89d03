"""`orkestra demo`: a support desk for three companies, watched from outside."""

from orkestra.cli.demo.command import demo

__all__ = ["demo"]
