"""Requests that a tenant may send, ways to spoil them, and a connection that records them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice import v1 as api
from temporalio.service import ConnectConfig, ServiceClient, _BridgeServiceClient

from orkestra.config import TenancySettings
from orkestra.directory import Placements
from orkestra.temporal.guard import GuardedServiceClient, GuardPolicy
from orkestra.temporal.guard.rules import own_id, own_namespace, scoped_id
from orkestra.temporal.guard.table import MESSAGES, NESTED, RPCS, Allowed
from orkestra.tenancy import AllTenants

ALLOWED = {name: row for name, row in RPCS.items() if isinstance(row, Allowed)}
TENANT = "acme"
NAMESPACE = "default"
ONLY_IN_NEXUS = {"completion_callbacks", "links", "on_conflict_options"}
TEXTS: dict[Any, str] = {
    own_namespace: NAMESPACE,
    own_id: "acme:order-42",
    scoped_id: "order-42",
}
# Fields without a rule of their own: a rule for the whole message, or for the query, decides.
VALUES: dict[str, Any] = {
    "workflow_id": "acme:order-42",
    "activity_id": "acme:charge",
    "query": "",
    "fairness_key": TENANT,
    "fairness_weight": 0,
    "priority_key": 0,
}


def payload(text: str, **metadata: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain", **metadata}, data=f'"{text}"'.encode())


def filled(kind: type[Message], choice: int = 0) -> Any:
    """A request with every allowed field; `choice` picks from its oneofs."""
    message: Any = kind()
    row = MESSAGES[kind.DESCRIPTOR.full_name]
    chosen = {o.fields[choice % len(o.fields)].name for o in kind.DESCRIPTOR.oneofs}
    for field in kind.DESCRIPTOR.fields:
        if field.name in row.forbidden or field.name in ONLY_IN_NEXUS:
            continue
        if field.containing_oneof is not None and field.name not in chosen:
            continue
        _fill(message, field, row.checked.get(field.name), choice)
    return message


def _fill(message: Any, field: Any, rule: Any, choice: int) -> None:
    name = field.name
    if field.message_type is None:
        value = TEXTS.get(rule, _scalar(field, rule))
        if field.is_repeated:
            getattr(message, name).append("heartbeat_timeout" if name == "paths" else value)
        else:
            setattr(message, name, value)
    elif field.message_type.GetOptions().map_entry:
        _fill_map(getattr(message, name), field, rule)
    elif field.message_type.full_name == message.DESCRIPTOR.full_name:
        getattr(message, name).SetInParent()
    else:
        value = filled(field.message_type._concrete_class, choice)
        if field.is_repeated:
            getattr(message, name).append(value)
        elif rule is NESTED or field.message_type.full_name in MESSAGES:
            getattr(message, name).CopyFrom(value)


def _scalar(field: Any, rule: Any) -> Any:
    if field.name in VALUES:
        return VALUES[field.name]
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"some {field.name}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"bytes"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    return 0 if rule is not None else 1


def _fill_map(values: Any, field: Any, rule: Any) -> None:
    if field.message_type.fields_by_name["value"].message_type is None:
        values["encoding"] = b"json/plain"
        return
    values["other"].CopyFrom(payload("other"))
    if rule is not None:
        typed = {"type": b"Keyword"} if field.name == "indexed_fields" else {}
        values["tenantId"].CopyFrom(payload(TENANT, **typed))


def places(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Every message in a message, itself first, with its path."""
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        here = f"{path}.{field.name}" if path else field.name
        if field.message_type.GetOptions().map_entry:
            for key, item in sorted(value.items()):
                if isinstance(item, Message):
                    yield from places(item, f"{here}[{key!r}]")
        elif field.is_repeated:
            for index, item in enumerate(value):
                yield from places(item, f"{here}[{index}]")
        else:
            yield from places(value, here)


def spoiled(
    kind: type[Message],
    where: Callable[[Any], bool],
    spoil: Callable[[Any], None],
    choice: int = 0,
) -> Iterator[tuple[str, Message]]:
    """Copies of a filled request, each spoiled at one of the places that match `where`."""
    pattern = filled(kind, choice)
    for index, (path, place) in enumerate(places(pattern)):
        if where(place):
            request = kind()
            request.CopyFrom(pattern)
            spoil(list(places(request))[index][1])
            yield path, request


class RecordingConnection(ServiceClient):
    """Records requests in place of a connection."""

    def __init__(self) -> None:
        super().__init__(
            ConnectConfig(
                "localhost:7233", api_key="secret", rpc_metadata={"authorization": "secret"}
            )
        )
        self.sent: list[Any] = []
        self.metadata: list[Mapping[str, str | bytes]] = []
        self.response: Message | None = None
        self.connection = "the connection"

    @property
    def worker_service_client(self) -> _BridgeServiceClient:
        return _BridgeServiceClient(self.config)

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        raise AssertionError(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        raise AssertionError(api_key)

    async def _rpc_call(self, rpc: str, req: Message, resp_type: type[Any], **options: Any) -> Any:
        self.sent.append(req)
        self.metadata.append(options["metadata"])
        return self.response or resp_type()


def guarded(
    connection: ServiceClient,
    tenant: str | AllTenants | None = TENANT,
    *,
    settings: TenancySettings | None = None,
    placements: Placements | None = None,
) -> GuardedServiceClient:
    policy = GuardPolicy(
        settings=settings or TenancySettings(), placements=placements or Placements()
    )
    return GuardedServiceClient(connection, tenant=tenant, namespace=NAMESPACE, policy=policy)


async def call(client: ServiceClient, rpc: str, request: Message, **options: Any) -> Any:
    return await getattr(client.workflow_service, rpc)(request, **options)


def filled_describe() -> Any:
    return filled(api.DescribeWorkflowExecutionRequest)


def filled_query() -> Any:
    return filled(api.QueryWorkflowRequest)
