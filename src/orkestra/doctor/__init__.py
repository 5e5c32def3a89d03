"""The doctor: what keeps work from flowing, one line each, and how to mend it."""

from orkestra.doctor.examination import diagnose
from orkestra.doctor.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
