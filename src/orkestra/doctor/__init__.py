"""The doctor: what keeps work from flowing, one line each, and how to mend it."""

from orkestra.doctor.checks import Diagnosis, Finding
from orkestra.doctor.diagnose import diagnose

__all__ = ["Diagnosis", "Finding", "diagnose"]
