"""The sandbox that workflow code runs in: what passes through it, and what it costs."""

from orkestra.temporal.sandbox.policy import installed_packages, sandbox_runner

__all__ = ["installed_packages", "sandbox_runner"]
