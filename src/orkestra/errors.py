"""The errors that Orkestra raises.

```
OrkestraError
├── ConfigurationError            settings that are unknown, malformed or contradictory
│   ├── DiscoveryError            workflow or activity code that cannot be found or loaded
│   └── MissingExtraError         an optional dependency is not installed
├── ConnectionFailedError         the Temporal service could not be reached
├── ConnectionClosedError         the connection was used after close()
├── ConnectionOverloadedError     too many calls wait for a service that answers none
├── WorkersRunningError           close() while workers still run on the connection
├── SearchAttributeError          the tenant search attribute is missing or has another type
├── DevServerError                the embedded server did not start
├── DirectoryUnavailableError     the tenant directory gave no answer
├── ExecutionNotFoundError        the server does not know the workflow or the run
├── InvalidTraceAttributeError    a user, session, tag or metadata of a trace is malformed
├── LangfuseUnavailableError      Langfuse did not say or take what a backfill needs it to
└── TenantError                   refused before anything was sent
    ├── TenantRequiredError
    ├── InvalidTenantError
    ├── InvalidIdError
    ├── InvalidQueryError
    ├── TenantMismatchError
    ├── UnknownTenantError
    ├── TenantSuspendedError
    └── ForbiddenOperationError
```

Workers refuse work with `temporalio.exceptions.ApplicationError`, because only that ends a
workflow; its `type` is one of `TENANT_REQUIRED`, `TENANT_MISMATCH`, `TENANT_UNKNOWN` and
`TENANT_SUSPENDED`.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Final

_PAGE: Final = "errors.html"

TENANT_REQUIRED: Final = "TenantRequired"
"""`ApplicationError.type` of work that reached a worker without a tenant."""

TENANT_MISMATCH: Final = "TenantMismatch"
"""`ApplicationError.type` of work whose header, memo, attribute and ID disagree."""

TENANT_UNKNOWN: Final = "TenantUnknown"
"""`ApplicationError.type` of work of a tenant that the directory does not know."""

TENANT_SUSPENDED: Final = "TenantSuspended"
"""`ApplicationError.type` of work that was started for a suspended tenant."""

TENANT_UNDECIDED: Final = "TenantUndecided"
"""`ApplicationError.type` of work that is tried again later or elsewhere: the directory gave no
answer, or the worker serves other tenants."""


class OrkestraError(Exception):
    """Base of every error that Orkestra raises itself; a traceback says where it is explained."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        public = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        self.add_note(f"Explained in Orkestra's documentation: {_PAGE}#{public.__name__.lower()}")


class ConfigurationError(OrkestraError):
    """A setting is unknown, malformed or contradicts another."""


class DiscoveryError(ConfigurationError):
    """Workflow or activity code could not be found, imported or validated."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is not installed."""

    def __init__(self, needed_for: str, extra: str) -> None:
        """Say what needs the extra and how to install it.

        Args:
            needed_for: What was attempted, as the subject of the sentence.
            extra: Name of the extra of `orkestra-core`.
        """
        super().__init__(f'{needed_for} needs an extra: pip install "orkestra-core[{extra}]"')
        self.extra = extra


class ConnectionFailureReason(StrEnum):
    """Why a connection to the Temporal service could not be opened."""

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
        """Whether trying again can help without anyone changing anything."""
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
        reason: What kind of failure it was.
        address: The `host:port` that was tried.
        attempts: How many times it was tried.
        elapsed: How long all attempts took together.
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
        """Describe a failed connection; `message` says what failed and how to mend it."""
        super().__init__(message)
        self.reason = reason
        self.address = address
        self.attempts = attempts
        self.elapsed = elapsed


class ConnectionClosedError(OrkestraError):
    """A client, handle or call used a connection after it was closed."""


class ConnectionOverloadedError(OrkestraError):
    """Too many calls wait already for a service that answers none; this one was not sent."""


class WorkersRunningError(OrkestraError):
    """The connection cannot be closed while workers still poll on it."""


class SearchAttributeError(OrkestraError):
    """The tenant search attribute is missing, or exists with another type."""


class DevServerError(OrkestraError):
    """The embedded Temporal server did not start or did not answer."""


class DirectoryUnavailableError(OrkestraError):
    """The tenant directory gave no answer in time, and none that was young enough is remembered."""


class InvalidTraceAttributeError(OrkestraError, ValueError):
    """A user, session, tag or metadata for a trace is too long, of a wrong type, or reserved."""


class ExecutionNotFoundError(OrkestraError):
    """The server does not know the workflow or the run, not any more, or not for this tenant."""


class LangfuseUnavailableError(OrkestraError):
    """Langfuse did not say which observations it has, or did not take those that were sent."""


class TenantError(OrkestraError):
    """Base of the refusals that happen before anything is sent."""


class TenantRequiredError(TenantError):
    """A call needs a tenant and none was given."""


class InvalidTenantError(TenantError, ValueError):
    """A tenant ID is malformed."""


class InvalidIdError(TenantError, ValueError):
    """A workflow, schedule or activity ID is empty, too long or unprintable."""


class InvalidQueryError(TenantError, ValueError):
    """A list or count query cannot be parsed, so it cannot be held inside a tenant."""


class TenantMismatchError(TenantError):
    """Two sources name two tenants for one call."""


class UnknownTenantError(TenantError):
    """The directory does not know the tenant."""


class TenantSuspendedError(TenantError):
    """The directory says that the tenant may not start work now."""


class ForbiddenOperationError(TenantError):
    """A tenant's client may not make this call."""
