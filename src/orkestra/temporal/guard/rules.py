"""What single fields must satisfy.

A rule takes the value and the bounds, raises `OutOfBoundsError`, and may return another value to
send in its place.

What is taken out of responses: rows that are not the tenant's, and what concerns operators.

The queries already select the tenant's rows. The second look is for stores that compare loosely
(SQLite's STARTS_WITH ignores case) and for whatever else a query might let through.

What a tenant may use beyond its own IDs, decided outside the gate.

What one tenant's requests are compared with, and how a request that leaves them is reported.

The form of the gate's table: one shape for a message, one row for an RPC.

What the directory grants a tenant, in the guard's words.
"""

import json
import logging
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from math import isclose
from operator import attrgetter
from typing import Any, Final, Protocol, TypeAlias, final

from google.protobuf.message import Message
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Callback, Link, Payload, SearchAttributes, WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.namespace.v1 import NamespaceInfo
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse

from orkestra.config import TenancySettings
from orkestra.directory import Placement, Placements
from orkestra.directory.placement import SYSTEM_QUEUES
from orkestra.errors import TenantMismatchError
from orkestra.temporal.guard.query import IdField, is_own_row, scope_query
from orkestra.temporal.nexus_task import NexusTask, current_nexus_task
from orkestra.tenancy import PLAIN_JSON, check_id, scope_id, tenant_as_json

NORMAL_PRIORITY: Final = 3
"""The server's default priority key; smaller numbers go first."""


class Grants(Protocol):
    """Answers the gate's questions about a tenant; asked during calls, so it must not block."""

    def queue_allowed(self, tenant: str, queue: str) -> bool:
        """Whether the tenant may name this task queue."""
        ...

    def fairness_weight(self, tenant: str) -> float | None:
        """The weight that the tenant's tasks carry; None means that they carry none."""
        ...

    def highest_priority(self, tenant: str) -> int:
        """The smallest priority key, so the most urgent one, that the tenant may set."""
        ...

    def nexus_task(self) -> NexusTask | None:
        """The Nexus task that the running code handles; None outside of one."""
        ...


@dataclass(frozen=True, slots=True)
class SharedQueues:
    """Grants without a directory: any task queue, no weight, normal priority, no Nexus task."""

    def queue_allowed(self, tenant: str, queue: str) -> bool:
        """See base class."""
        return bool(tenant and queue)

    def fairness_weight(self, tenant: str) -> float | None:
        """See base class."""
        return None

    def highest_priority(self, tenant: str) -> int:
        """See base class."""
        return NORMAL_PRIORITY

    def nexus_task(self) -> NexusTask | None:
        """See base class."""
        return None


SHARED_QUEUES: Final = SharedQueues()
"""The grants of a guard that is given none."""


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
        text = tenant_as_json(tenant)
        self.texts = (text, b"[%b]" % text)
        self.payload = Payload(metadata={"encoding": PLAIN_JSON}, data=text)
        self.keyword = Payload(metadata={"encoding": PLAIN_JSON, "type": b"Keyword"}, data=text)


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


Rule: TypeAlias = Callable[[Any, Bounds], object]
"""Checks a value; what it returns, if not None, is sent instead."""

_OPERATION_HEADER: Final = "nexus-operation-token"
_TEXT_TYPES: Final = (None, b"Keyword")
_FAIR_PATHS: Final = frozenset(
    {"priority", "priority.priority_key", "priority.fairness_key", "priority.fairness_weight"}
)
_MASK_PATHS: Final = _FAIR_PATHS | {
    "heartbeat_timeout",
    "retry_policy",
    "retry_policy.backoff_coefficient",
    "retry_policy.initial_interval",
    "retry_policy.maximum_attempts",
    "retry_policy.maximum_interval",
    "schedule_to_close_timeout",
    "schedule_to_start_timeout",
    "start_delay",
    "start_to_close_timeout",
    "task_queue.name",
}


def own_namespace(namespace: str, bounds: Bounds) -> None:
    """The namespace of the client, and no other."""
    if namespace != bounds.namespace:
        raise OutOfBoundsError(f"{namespace!r} is not the client's namespace {bounds.namespace!r}")


def own_id(server_id: str, bounds: Bounds) -> None:
    """An ID as the server has it, with the tenant's prefix; whose a global one is, is looked up.

    Raises:
        InvalidIdError: It has a character that logs and terminals cannot show safely.
    """
    if bounds.has_global_ids:
        check_id(server_id)
        return
    if not server_id.startswith(bounds.prefix) or len(server_id) == len(bounds.prefix):
        raise OutOfBoundsError(
            f"{server_id!r} does not begin with {bounds.prefix!r}: the Client's own methods scope"
            " IDs, in a raw request use orkestra.tenancy.scope_id()"
        )
    if not server_id.isprintable():
        check_id(server_id)


def scoped_id(user_id: str, bounds: Bounds) -> str:
    """An ID in calls that the SDK makes without its interceptors: the tenant's prefix is added."""
    return user_id if bounds.has_global_ids else scope_id(bounds.tenant, user_id)


def scoped_execution(execution: WorkflowExecution, bounds: Bounds) -> None:
    """The same for the ID inside an execution."""
    execution.workflow_id = scoped_id(execution.workflow_id, bounds)


def tenant_header(fields: MutableMapping[str, Payload], bounds: Bounds) -> None:
    """Headers that name the tenant under exactly one spelling of the key."""
    found = fields.get(bounds.header)
    if found is None:
        raise OutOfBoundsError(
            f"the tenant is missing: set it to json/plain {bounds.texts[0].decode()}, as the"
            " Client's own methods do",
            f"[{bounds.header!r}]",
        )
    _uncover(found, bounds)
    if found != bounds.payload:
        raise OutOfBoundsError(f"it is not {bounds.tenant!r} in plain JSON", f"[{bounds.header!r}]")
    if len(fields) > 1:
        lowered = bounds.header.lower()
        for key in fields:
            if key.lower() == lowered and key != bounds.header:
                raise OutOfBoundsError(
                    f"it differs from {bounds.header!r} by case only", f"[{key!r}]"
                )


def tenant_memo(fields: MutableMapping[str, Payload], bounds: Bounds) -> None:
    """A memo that names no tenant, or this one."""
    found = fields.get(bounds.header)
    if found is None:
        return
    _uncover(found, bounds)
    if found != bounds.payload:
        raise OutOfBoundsError(f"it is not {bounds.tenant!r} in plain JSON", f"[{bounds.header!r}]")


def _uncover(found: Payload, bounds: Bounds) -> None:
    """Write the tenant anew where a codec has hidden it: workers and other SDKs must read it."""
    if found.metadata.get("encoding") != PLAIN_JSON:
        found.CopyFrom(bounds.payload)


def tenant_attribute(fields: MutableMapping[str, Payload], bounds: Bounds) -> None:
    """Search attributes that put the work on the tenant's list."""
    found = fields.get(bounds.attribute)
    if found == bounds.keyword:
        return
    if found is None:
        raise OutOfBoundsError(
            f"the tenant is missing: set it to the Keyword {bounds.tenant!r}, as the Client's own"
            " methods do",
            f"[{bounds.attribute!r}]",
        )
    metadata = dict(found.metadata)
    is_text = metadata.get("encoding") == PLAIN_JSON and metadata.get("type") in _TEXT_TYPES
    if not is_text or found.data not in bounds.texts:
        raise OutOfBoundsError(
            f"it is not the Keyword {bounds.tenant!r}", f"[{bounds.attribute!r}]"
        )


def fair_key(key: str, bounds: Bounds) -> None:
    """The tenant, where tenants share their queues fairly."""
    if bounds.is_fair and key != bounds.tenant:
        raise OutOfBoundsError(f"{key!r} is not the tenant, which is the fairness key")


def granted_weight(weight: float, bounds: Bounds) -> None:
    """The weight that the tenant has been given."""
    if not bounds.is_fair:
        return
    granted = bounds.grants.fairness_weight(bounds.tenant)
    # The field is a float of 32 bits: the granted weight does not come back from it unchanged.
    if not isclose(weight, granted or 0.0, rel_tol=1e-6):
        raise OutOfBoundsError(f"{weight!r} is not the weight of the tenant, {granted!r}")


def granted_priority(key: int, bounds: Bounds) -> None:
    """No priority above the one that the tenant has been given."""
    if bounds.is_fair and key != 0 and key < bounds.grants.highest_priority(bounds.tenant):
        raise OutOfBoundsError(f"{key!r} is more urgent than the tenant may be")


def granted_queue(name: str, bounds: Bounds) -> None:
    """A task queue that the tenant may name."""
    is_system = name.startswith(SYSTEM_QUEUES)
    if is_system or not bounds.grants.queue_allowed(bounds.tenant, name):
        raise OutOfBoundsError(f"task queue {name!r} is not one that the tenant may name")


def normal_queue(kind: int, _bounds: Bounds) -> None:
    """A queue as users have it: sticky ones belong to a single worker."""
    if kind not in (
        TaskQueueKind.TASK_QUEUE_KIND_UNSPECIFIED,
        TaskQueueKind.TASK_QUEUE_KIND_NORMAL,
    ):
        raise OutOfBoundsError("a tenant may name normal task queues only")


def own_activity(request: Any, bounds: Bounds) -> None:
    """An activity of a workflow of the tenant, or a standalone one of the tenant."""
    field = "workflow_id" if request.workflow_id else "activity_id"
    try:
        own_id(getattr(request, field), bounds)
    except OutOfBoundsError as error:
        error.inside(field)
        raise


def changed_options(request: Any, bounds: Bounds) -> None:
    """Activity options that may change, by the one spelling of their names that is checked.

    What the mask names and the request leaves out is emptied, the fairness key for instance.
    """
    try:
        for path in request.update_mask.paths:
            _changed_option(path, request.activity_options, bounds)
    except OutOfBoundsError as error:
        error.inside("update_mask")
        raise


def _changed_option(path: str, options: ActivityOptions, bounds: Bounds) -> None:
    if path not in _MASK_PATHS:
        raise OutOfBoundsError(f"{path!r} is not an option that a tenant may change")
    if path in _FAIR_PATHS:
        fair_key(options.priority.fairness_key, bounds)
    if path == "task_queue.name":
        granted_queue(options.task_queue.name, bounds)


def of_nexus_task(link: Link, bounds: Bounds) -> None:
    """A link that came with the Nexus task being handled; the SDK adds no others."""
    task = bounds.grants.nexus_task()
    if task is None or link not in task.links:
        raise OutOfBoundsError("it is not a link of the Nexus task that this code handles")


def completes_nexus_task(callback: Callback, bounds: Bounds) -> None:
    """The callback of the Nexus task being handled; any other completes somebody else's work."""
    task = bounds.grants.nexus_task()
    headers = {k: v for k, v in callback.nexus.header.items() if k != _OPERATION_HEADER}
    if (
        task is None
        or callback.nexus.url != task.callback_url
        or headers != dict(task.callback_headers)
    ):
        raise OutOfBoundsError("it is not the callback of the Nexus task that this code handles")


def in_nexus_task(_options: object, bounds: Bounds) -> None:
    """Options that the SDK sets in Nexus handlers, to attach callback and links."""
    if bounds.grants.nexus_task() is None:
        raise OutOfBoundsError("only requests of a Nexus handler carry it")


def scoped_query(id_field: IdField) -> Rule:
    """A list or count query, written anew so that it selects the tenant's rows only.

    Args:
        id_field: What the store calls the ID of the rows.
    """

    def rule(query: str, bounds: Bounds) -> str:
        return scope_query(
            query,
            tenant=bounds.tenant,
            attribute=bounds.attribute,
            id_field=id_field,
            scoped_ids=not bounds.has_global_ids,
        )

    return rule


ResponseRule: TypeAlias = Callable[[Any, Bounds], None]
"""Takes out of a response, in place, what the tenant may not see."""


@final
class Inside:
    """Type of `INSIDE`."""

    __slots__ = ()


INSIDE: Final = Inside()
"""Rule of a field whose own message is checked by its shape, even where the field is not set."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is decided about every field of a message; a field that is not listed is refused.

    Attributes:
        message: The message.
        must: Fields with the rule that holds for them, set or not.
        free: Names of the fields that may have any value; where they are messages, the shapes of
            those decide.
        opaque: Names of the fields that may hold anything whatever, because nothing acts on it or
            a rule compares it whole.
        never: Fields that are refused when they are set, with the reason.
        whole: Rules for the message as a whole.
    """

    message: type[Message]
    must: Mapping[str, Rule | Inside] = field(default_factory=dict[str, Rule | Inside])
    free: str = ""
    opaque: str = ""
    never: Mapping[str, str] = field(default_factory=dict[str, str])
    whole: tuple[Rule, ...] = ()

    @property
    def decided(self) -> list[str]:
        """Names of the fields that it lists, with those that it lists twice."""
        return [*self.must, *self.free.split(), *self.opaque.split(), *self.never]


@dataclass(frozen=True, slots=True)
class Allowed:
    """A row of an RPC that tenants may call, if the request fits its shape.

    Attributes:
        request: The request's message.
        response: Rule for the response.
        needs_tenant: Whether it can only be called for a tenant.
    """

    request: type[Message]
    response: ResponseRule | None = None
    needs_tenant: bool = True


@dataclass(frozen=True, slots=True)
class Denied:
    """A row of an RPC, or of a whole service, that only operators may call.

    Attributes:
        reason: Why; the end of a sentence.
    """

    reason: str


_logger: Final = logging.getLogger("orkestra.temporal.guard")


def own_rows(rows: str, row_id: str) -> ResponseRule:
    """A rule that keeps the tenant's own rows.

    Args:
        rows: Field of the response that holds the rows.
        row_id: Path of the ID in a row.
    """
    all_rows: Callable[[Any], MutableSequence[Any]] = attrgetter(rows)
    id_of: Callable[[Any], str] = attrgetter(row_id)

    def rule(response: Any, bounds: Bounds) -> None:
        found = all_rows(response)
        foreign = [
            index
            for index, row in enumerate(found)
            if not (bounds.has_global_ids or is_own_row(bounds.tenant, id_of(row)))
            or not _is_attributed(row.search_attributes, bounds)
        ]
        if foreign:
            _logger.warning(
                "Left %d row(s) out of a list of %s: they are not the tenant's",
                len(foreign),
                bounds.tenant,
            )
        for index in reversed(foreign):
            del found[index]

    return rule


def _is_attributed(attributes: SearchAttributes, bounds: Bounds) -> bool:
    found = attributes.indexed_fields.get(bounds.attribute)
    if found is None:
        return False
    try:
        value = json.loads(found.data)
    except ValueError:
        return False
    return value in (bounds.tenant, [bounds.tenant])


def namespace_outline(response: DescribeNamespaceResponse, _bounds: Bounds) -> None:
    """Leave what clients need; owner, notes, clusters and attribute names are the operator's."""
    info = response.namespace_info
    outline = DescribeNamespaceResponse(
        namespace_info=NamespaceInfo(
            name=info.name,
            id=info.id,
            state=info.state,
            capabilities=info.capabilities,
            limits=info.limits,
        )
    )
    retention = response.config.workflow_execution_retention_ttl
    outline.config.workflow_execution_retention_ttl.CopyFrom(retention)
    response.CopyFrom(outline)


class DirectoryGrants:
    """Answers from what the directory has said of the tenant; asks it nothing.

    The interceptors ask it before each start. A raw request for a tenant that nobody has asked for
    yet is granted no queue.

    Args:
        placements: Where tenants belong.
        namespace: Namespace of the guarded client.
    """

    def __init__(self, placements: Placements, namespace: str) -> None:
        self._placements = placements
        self._namespace = namespace

    def queue_allowed(self, tenant: str, queue: str) -> bool:
        """See base class."""
        placement = self._placement(tenant)
        try:
            return placement is not None and queue == placement.queue(
                queue, namespace=self._namespace
            )
        except TenantMismatchError:
            return False

    def fairness_weight(self, tenant: str) -> float | None:
        """See base class."""
        placement = self._placement(tenant)
        return None if placement is None else placement.record.fairness_weight

    def highest_priority(self, tenant: str) -> int:
        """See base class."""
        placement = self._placement(tenant)
        return NORMAL_PRIORITY if placement is None else placement.record.most_urgent_priority

    def nexus_task(self) -> NexusTask | None:
        """See base class."""
        return current_nexus_task()

    def _placement(self, tenant: str) -> Placement | None:
        return self._placements.last_known(tenant)
