"""Whether a Temporal service can be worked with, and if not, why not."""

from orkestra.temporal.health.examination import check_temporal_health
from orkestra.temporal.health.report import HealthCheck, HealthReport

__all__ = ["HealthCheck", "HealthReport", "check_temporal_health"]
