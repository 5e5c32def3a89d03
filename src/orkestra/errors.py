"""The errors that Orkestra raises.

```
OrkestraError
├── ConfigurationError            a setting is unknown, malformed or contradicts another
│   ├── DiscoveryError            workflow or activity code cannot be found or imported
│   └── MissingExtraError         an optional dependency is not installed
├── ConnectionFailedError         the Temporal service could not be reached
├── ConnectionClosedError         a connection was used after close()
├── ConnectionOverloadedError     too many calls wait for a service that does not answer
├── WorkersRunningError           close() while workers still use the connection
├── SearchAttributeError          the tenant search attribute is missing or has another type
├── DevServerError                the embedded server did not start
├── DirectoryUnavailableError     the tenant directory did not answer
├── ExecutionNotFoundError        the server does not know the workflow or the run
├── InvalidTraceAttributeError    a user, session, tag or metadata of a trace is malformed
├── LangfuseUnavailableError      Langfuse did not answer a backfill, or refused its spans
└── TenantError                   a call was refused before anything was sent
    ├── TenantRequiredError
    ├── InvalidTenantError
    ├── InvalidIdError
    ├── InvalidQueryError
    ├── TenantMismatchError
    ├── UnknownTenantError
    ├── TenantSuspendedError
    └── ForbiddenOperationError
```

Workers refuse work with `temporalio.exceptions.ApplicationError`, because no other error fails a
workflow. Its `type` is one of the `TENANT_...` constants below.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Final

_ERRORS_PAGE: Final = "errors.html"

TENANT_REQUIRED: Final = "TenantRequired"
"""`ApplicationError.type` of work that reached a worker without a tenant."""

TENANT_MISMATCH: Final = "TenantMismatch"
"""`ApplicationError.type` of work whose header, memo, attribute and ID disagree."""

TENANT_UNKNOWN: Final = "TenantUnknown"
"""`ApplicationError.type` of work for an unknown tenant."""

TENANT_SUSPENDED: Final = "TenantSuspended"
"""`ApplicationError.type` of work that was started for a suspended tenant."""

TENANT_UNDECIDED: Final = "TenantUndecided"
"""`ApplicationError.type` of work that is retried later or on another worker, because the directory
did not answer or the worker serves other tenants."""


class OrkestraError(Exception):
    """Base of every error that Orkestra raises, with a note that names its documentation."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        public = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        self.add_note(
            f"Explained in Orkestra's documentation: {_ERRORS_PAGE}#{public.__name__.lower()}"
        )


class ConfigurationError(OrkestraError):
    """A setting is unknown, malformed or contradicts another."""


class DiscoveryError(ConfigurationError):
    """Workflow or activity code could not be found, imported or validated."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is not installed."""

    def __init__(self, needed_for: str, extra: str) -> None:
        """Name an extra of `orkestra-core`; `needed_for` is the subject of the message."""
        super().__init__(f'{needed_for} needs an extra: pip install "orkestra-core[{extra}]"')
        self.extra = extra


class ConnectionFailureReason(StrEnum):
    """Reason why a connection to the Temporal service could not be opened."""

    REFUSED = "refused"
    UNKNOWN_HOST = "unknown_host"
    RESET = "reset"
    TIMED_OUT = "timed_out"
    UNAVAILABLE = "unavailable"
    TLS = "tls"
    BAD_ADDRESS = "bad_address"
    BAD_CERTIFICATE = "bad_certificate"
    BAD_API_KEY = "bad_api_key"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NAMESPACE_NOT_FOUND = "namespace_not_found"
    OTHER = "other"

    @property
    def is_transient(self) -> bool:
        """True if a retry can succeed without any other change."""
        return self in _TRANSIENT_REASONS


_TRANSIENT_REASONS: Final = frozenset(
    {
        ConnectionFailureReason.REFUSED,
        ConnectionFailureReason.UNKNOWN_HOST,
        ConnectionFailureReason.RESET,
        ConnectionFailureReason.TIMED_OUT,
        ConnectionFailureReason.UNAVAILABLE,
    }
)


class ConnectionFailedError(OrkestraError):
    """The Temporal service could not be reached; the SDK's error is the cause.

    Attributes:
        reason: Kind of the failure.
        address: Address of the service, `host:port`.
        attempts: Number of attempts.
        elapsed: Duration of all attempts together.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: ConnectionFailureReason,
        address: str,
        attempts: int,
        elapsed: timedelta,
    ) -> None:
        """Describe a failed connection; `message` says what failed and how to fix it."""
        super().__init__(message)
        self.reason = reason
        self.address = address
        self.attempts = attempts
        self.elapsed = elapsed


class ConnectionClosedError(OrkestraError):
    """A client, handle or call used a connection after it was closed."""


class ConnectionOverloadedError(OrkestraError):
    """Too many calls wait for a service that does not answer, so this one was not sent."""


class WorkersRunningError(OrkestraError):
    """The connection cannot be closed while workers still use it."""


class SearchAttributeError(OrkestraError):
    """The tenant search attribute is missing, or exists with another type."""


class DevServerError(OrkestraError):
    """The embedded Temporal server did not start or did not answer."""


class DirectoryUnavailableError(OrkestraError):
    """The tenant directory did not answer in time, and no cached answer is recent enough."""


class InvalidTraceAttributeError(OrkestraError, ValueError):
    """A user, session, tag or metadata for a trace is too long, of a wrong type, or reserved."""


class ExecutionNotFoundError(OrkestraError):
    """The server does not know the workflow or the run, or it belongs to another tenant."""


class LangfuseUnavailableError(OrkestraError):
    """Langfuse did not list its observations, or did not accept those that were sent."""


class TenantError(OrkestraError):
    """Base of the refusals before anything is sent."""


class TenantRequiredError(TenantError):
    """A call needs a tenant and none was given."""


class InvalidTenantError(TenantError, ValueError):
    """A tenant ID is malformed."""


class InvalidIdError(TenantError, ValueError):
    """A workflow, schedule or activity ID is empty, too long or unprintable."""


class InvalidQueryError(TenantError, ValueError):
    """A list or count query cannot be parsed, so it cannot be limited to a tenant."""


class TenantMismatchError(TenantError):
    """Two sources name different tenants for one call."""


class UnknownTenantError(TenantError):
    """The directory does not know the tenant."""


class TenantSuspendedError(TenantError):
    """The tenant is suspended and cannot start work."""


class ForbiddenOperationError(TenantError):
    """A tenant's client may not make this call."""
