"""What one tenant's requests are compared with, and how a request that leaves them is reported."""

from temporalio.api.common.v1 import Payload

from orkestra.config import TenancySettings
from orkestra.temporal.guard.grants import Grants


class Bounds:
    """The limits of one tenant in one namespace, prepared for comparison.

    Attributes:
        tenant: The tenant; empty for calls that need none.
        namespace: The only namespace that requests may name.
        prefix: What each ID of the tenant begins with, unless IDs are global.
        has_global_ids: Whether IDs are as they were given, and say nothing of whose they are.
        header: Name of the Temporal header and memo key of the tenant.
        attribute: Name of the tenant's search attribute.
        is_fair: Whether tasks carry the tenant as fairness key.
        grants: What the tenant may use besides.
        payload: The tenant as header and memo carry it.
        keyword: The tenant as a typed search attribute carries it.
        texts: The tenant as JSON, alone and as the list that untyped attributes are sent as.
    """

    __slots__ = (
        "attribute",
        "grants",
        "has_global_ids",
        "header",
        "is_fair",
        "keyword",
        "namespace",
        "payload",
        "prefix",
        "tenant",
        "texts",
    )

    def __init__(
        self, tenant: str, *, namespace: str, settings: TenancySettings, grants: Grants
    ) -> None:
        self.tenant = tenant
        self.namespace = namespace
        self.prefix = f"{tenant}:"
        self.has_global_ids = settings.workflow_ids == "global"
        self.header = settings.header
        self.attribute = settings.search_attribute
        self.is_fair = settings.fairness
        self.grants = grants
        text = f'"{tenant}"'.encode()
        self.texts = (text, b"[%b]" % text)
        self.payload = Payload(metadata={"encoding": b"json/plain"}, data=text)
        self.keyword = Payload(metadata={"encoding": b"json/plain", "type": b"Keyword"}, data=text)


class OutOfBoundsError(Exception):
    """A field that leaves its bounds; the gate makes a refusal of it that names the call.

    Attributes:
        problem: What is wrong with the field and how to mend it.
        field: Its path in the request, put together on the way out.
    """

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field

    def inside(self, container: str) -> None:
        """Put the field that contains this one in front of the path."""
        separator = "." if self.field and not self.field.startswith("[") else ""
        self.field = f"{container}{separator}{self.field}"
