"""What a look at the server's health found."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from orkestra.errors import ConnectionFailedError


@dataclass(frozen=True)
class HealthCheck:
    """One thing that was looked at.

    Attributes:
        name: `connection`, `server`, `namespace`, `search_attribute`, `workflow_pollers` or
            `activity_pollers`.
        ok: True where all is well, False where not, None where nothing can be said.
        detail: What was found, or why nothing can be said.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class HealthReport:
    """What `check_temporal_health()` found; truthy when healthy.

    Attributes:
        address: The server that was asked.
        namespace: The namespace of the client.
        checks: Everything that was looked at.
        reachable: Whether a server answered, in whatever state it is.
        server_version: The server's version, where it told it.
        latency: Round trip of one small call, where it was answered.
    """

    address: str
    namespace: str
    checks: tuple[HealthCheck, ...]
    reachable: bool
    server_version: str | None = None
    latency: timedelta | None = None

    @classmethod
    def of_failed_connection(cls, error: ConnectionFailedError, *, namespace: str) -> Self:
        """The report where not even a client could be made.

        Args:
            error: Why not.
            namespace: The namespace that the client would have had.
        """
        check = HealthCheck("connection", ok=False, detail=str(error))
        return cls(error.address, namespace, (check,), reachable=False)

    def __bool__(self) -> bool:
        return self.healthy

    @property
    def healthy(self) -> bool:
        """Whether a server answered and no check failed."""
        return self.reachable and not self.problems

    @property
    def problems(self) -> tuple[HealthCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.ok is False)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON would have it; the latency is `latency_ms`, in milliseconds."""
        latency = None if self.latency is None else self.latency.total_seconds() * 1000
        return {
            "healthy": self.healthy,
            "reachable": self.reachable,
            "address": self.address,
            "namespace": self.namespace,
            "server_version": self.server_version,
            "latency_ms": latency,
            "checks": [
                {"name": check.name, "ok": check.ok, "detail": check.detail}
                for check in self.checks
            ],
        }
