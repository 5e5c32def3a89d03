"""Diagnosis of configuration and connectivity: one line for each check, and how to fix problems."""

from orkestra.doctor.checks import Diagnosis, Finding
from orkestra.doctor.diagnose import diagnose

__all__ = ["Diagnosis", "Finding", "diagnose"]
