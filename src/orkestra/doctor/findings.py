"""What the doctor found, one finding a line."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it was, for instance `tls` or `namespace`.
        ok: True where all is well, False where not, None where nothing can be said.
        detail: What was found.
        mend: What to do about it; empty where there is nothing to do.
    """

    name: str
    ok: bool | None
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was looked at; truthy where nothing is wrong.

    Attributes:
        findings: What was found, in the order in which a connection is made and used.
    """

    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that need mending."""
        return tuple(finding for finding in self.findings if finding.ok is False)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON would have it."""
        return {
            "healthy": bool(self),
            "findings": [
                {"name": each.name, "ok": each.ok, "detail": each.detail, "mend": each.mend}
                for each in self.findings
            ],
        }
