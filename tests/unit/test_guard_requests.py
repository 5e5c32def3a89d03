"""Requests that the guard must refuse, field by field."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.batch.v1 import BatchOperationTermination
from temporalio.api.common.v1 import (
    Callback,
    Header,
    Link,
    Memo,
    Payload,
    Priority,
    SearchAttributes,
)
from temporalio.api.workflowservice import v1 as api

from orkestra.config import TenancySettings
from orkestra.directory import Placements, StaticTenantDirectory, TenantRecord
from orkestra.errors import ForbiddenOperationError, InvalidIdError, InvalidQueryError
from orkestra.temporal.guard import rules
from orkestra.temporal.guard.table import MESSAGES
from tests.support.requests import (
    ALLOWED,
    NAMESPACE,
    TENANT,
    RecordingConnection,
    call,
    filled,
    filled_describe,
    guarded,
    payload,
    places,
    spoiled,
)

IDS = ("workflow_id", "schedule_id", "activity_id")


@pytest.fixture
def connection() -> RecordingConnection:
    return RecordingConnection()


Where = Callable[[Any], bool]


def names_a_namespace(message: Any) -> bool:
    return _has(message, "namespace") and not _is_a_failure(message)


def names_work(message: Any) -> bool:
    return any(_has(message, name) for name in IDS) and not _is_a_failure(message)


def is_a(*kinds: type[Message]) -> Where:
    return lambda message: isinstance(message, kinds)


def has_forbidden_fields(message: Any) -> bool:
    return bool(MESSAGES[message.DESCRIPTOR.full_name].forbidden)


def _has(message: Any, name: str) -> bool:
    return name in message.DESCRIPTOR.fields_by_name


def _is_a_failure(message: Any) -> bool:
    return ".failure." in message.DESCRIPTOR.full_name


def rpcs_with(where: Where) -> list[str]:
    """The allowed RPCs whose requests hold a message like this."""
    return [
        rpc
        for rpc, row in ALLOWED.items()
        if any(where(message) for _, message in places(filled(row.message)))
    ]


class TestEveryAllowedRequest:
    """Each test runs for the whole table, so that every new row is attacked, too."""

    @pytest.mark.parametrize("rpc", [rpc for rpc, row in ALLOWED.items() if row.needs_tenant])
    async def test_a_request_with_every_allowed_field_is_sent_as_a_copy(self, connection, rpc):
        for choice in range(3):
            request = filled(ALLOWED[rpc].message, choice)
            before = request.SerializeToString(deterministic=True)
            await call(guarded(connection), rpc, request)
            assert request.SerializeToString(deterministic=True) == before
            assert len(connection.sent) == choice + 1
            assert connection.sent[-1] is not request

    @pytest.mark.parametrize("rpc", rpcs_with(names_a_namespace))
    async def test_another_namespace_is_refused_anywhere(self, connection, rpc):
        for name in ("second", "", "Default"):

            def spoil(message: Any, name: str = name) -> None:
                message.namespace = name

            await refused_everywhere(connection, rpc, names_a_namespace, spoil, "namespace: ")

    @pytest.mark.parametrize(
        "rpc", [rpc for rpc in rpcs_with(names_work) if not rpc.startswith("poll_")]
    )
    async def test_an_id_without_the_tenants_prefix_is_refused(self, connection, rpc):
        for value in ("", "order-42", "beta:x", "acme:", "Acme:x", "acme", "acmex:1", " acme:x"):

            def spoil(message: Any, value: str = value) -> None:
                for name in IDS:
                    if _has(message, name):
                        setattr(message, name, value)

            await refused_everywhere(connection, rpc, names_work, spoil, "_id: ")

    @pytest.mark.parametrize("rpc", rpcs_with(is_a(Header, SearchAttributes)))
    async def test_a_missing_or_different_tenant_is_refused(self, connection, rpc):
        for text in (None, "beta", "acmé", ""):

            def spoil(message: Any, text: str | None = text) -> None:
                fields = message.fields if isinstance(message, Header) else message.indexed_fields
                del fields["tenantId"]
                if text is not None:
                    fields["tenantId"].CopyFrom(payload(text))

            where = is_a(Header, SearchAttributes)
            await refused_everywhere(connection, rpc, where, spoil, "['tenantId']: ")

    @pytest.mark.parametrize("rpc", rpcs_with(is_a(Memo)))
    async def test_a_memo_of_another_tenant_is_refused(self, connection, rpc):
        def spoil(message: Any) -> None:
            message.fields["tenantId"].CopyFrom(payload("beta"))

        await refused_everywhere(connection, rpc, is_a(Memo), spoil, "memo.fields['tenantId']: ")

    @pytest.mark.parametrize("rpc", rpcs_with(is_a(Header, Memo)))
    async def test_a_header_or_memo_that_a_codec_encrypted_is_sent_in_plain_json(
        self, connection, rpc
    ):
        sealed = Payload(metadata={"encoding": b"binary/encrypted"}, data=b'"beta"')

        def spoil(message: Any) -> None:
            message.fields["tenantId"].CopyFrom(sealed)

        client = guarded(connection)
        for _, request in spoiled(ALLOWED[rpc].message, is_a(Header, Memo), spoil):
            await call(client, rpc, request)
            found = [
                place.fields["tenantId"]
                for _, place in places(connection.sent[-1])
                if isinstance(place, Header | Memo)
            ]
            assert found
            assert all(each == payload(TENANT) for each in found)

    @pytest.mark.parametrize("rpc", rpcs_with(is_a(Priority)))
    async def test_a_priority_that_breaks_fairness_is_refused(self, connection, rpc):
        for priority in (
            Priority(),
            Priority(fairness_key="beta"),
            Priority(fairness_key=TENANT, priority_key=1),
            Priority(fairness_key=TENANT, priority_key=-1),
            Priority(fairness_key=TENANT, fairness_weight=1000),
            Priority(fairness_key=TENANT, fairness_weight=math.nan),
            Priority(fairness_key=TENANT, fairness_weight=-1),
        ):

            def spoil(message: Any, priority: Priority = priority) -> None:
                message.CopyFrom(priority)

            await refused_everywhere(connection, rpc, is_a(Priority), spoil, "priority.")

    @pytest.mark.parametrize("rpc", rpcs_with(has_forbidden_fields))
    async def test_every_forbidden_field_is_refused(self, connection, rpc):
        for kind in {type(message) for _, message in places(filled(ALLOWED[rpc].message))}:
            for name, reason in MESSAGES[kind.DESCRIPTOR.full_name].forbidden.items():

                def spoil(message: Any, name: str = name) -> None:
                    _set(message, name)

                problem = f"{name}: it may not be set: {reason}"
                await refused_everywhere(connection, rpc, is_a(kind), spoil, problem)

    @pytest.mark.parametrize("rpc", ALLOWED)
    async def test_an_unknown_field_is_refused_at_any_depth(self, connection, rpc):
        def spoil(message: Any) -> None:
            message.MergeFromString(b"\xc2\x3e\x01z")

        for choice in range(3):
            await refused_everywhere(
                connection, rpc, is_a(Message), spoil, "field 1000 is unknown", choice
            )

    @pytest.mark.parametrize("rpc", ALLOWED)
    async def test_a_request_of_another_type_is_refused(self, connection, rpc):
        with pytest.raises(ForbiddenOperationError, match="it takes"):
            await call(guarded(connection), rpc, BatchOperationTermination())
        assert not connection.sent


async def refused_everywhere(
    connection: RecordingConnection,
    rpc: str,
    where: Where,
    spoil: Callable[[Any], None],
    problem: str,
    choice: int = 0,
) -> None:
    """Spoil one matching place after the other; each request is refused with the problem."""
    requests = list(spoiled(ALLOWED[rpc].message, where, spoil, choice))
    assert requests
    for path, request in requests:
        with pytest.raises(ForbiddenOperationError) as caught:
            await call(guarded(connection), rpc, request)
        said = str(caught.value)
        assert said.startswith(f"{rpc} is refused to tenant {TENANT!r}: "), path
        assert problem in said, path
        assert not connection.sent, path


def _set(message: Any, name: str) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is None:
        values = {field.TYPE_BYTES: b"x", field.TYPE_BOOL: True}
        setattr(message, name, values.get(field.type, "x"))
    elif field.is_repeated:
        getattr(message, name).add()
    else:
        getattr(message, name).SetInParent()


class TestRequests:
    async def test_changes_after_the_check_are_not_sent(self, connection):
        request = filled_describe()
        await call(guarded(connection), "describe_workflow_execution", request)
        request.execution.workflow_id = "beta:x"
        assert connection.sent[0].execution.workflow_id == "acme:order-42"

    async def test_a_refusal_contains_no_payload(self, connection):
        request = filled(api.StartWorkflowExecutionRequest)
        request.input.payloads.add(data=b"credit card")
        request.memo.fields["tenantId"].data = b"credit card"
        with pytest.raises(ForbiddenOperationError) as caught:
            await call(guarded(connection), "start_workflow_execution", request)
        assert "credit" not in str(caught.value)
        assert "memo.fields['tenantId']" in str(caught.value)

    async def test_a_header_that_differs_by_case_only_is_refused(self, connection):
        request = filled(api.SignalWorkflowExecutionRequest)
        request.header.fields["TENANTID"].CopyFrom(payload("beta"))
        with pytest.raises(ForbiddenOperationError, match="by case only"):
            await call(guarded(connection), "signal_workflow_execution", request)

    async def test_header_and_attribute_names_follow_the_settings(self, connection):
        settings = TenancySettings(header="org", search_attribute="Org", fairness=False)
        client = guarded(connection, settings=settings)
        request = filled(api.StartWorkflowExecutionRequest)
        with pytest.raises(ForbiddenOperationError, match=r"indexed_fields\['Org'\]"):
            await call(client, "start_workflow_execution", request)
        request.search_attributes.indexed_fields["Org"].CopyFrom(payload(TENANT))
        with pytest.raises(ForbiddenOperationError, match=r"header.fields\['org'\]"):
            await call(client, "start_workflow_execution", request)
        request.header.fields["org"].CopyFrom(payload(TENANT))
        request.priority.fairness_key = "mine"
        request.priority.priority_key = 1
        await call(client, "start_workflow_execution", request)
        assert connection.sent

    @pytest.mark.parametrize("data", [b'"acme"', b'["acme"]'])
    @pytest.mark.parametrize("kind", [b"", b"Keyword"])
    async def test_attributes_may_be_typed_or_not(self, connection, data, kind):
        request = filled(api.StartWorkflowExecutionRequest)
        metadata = {"encoding": b"json/plain", **({"type": kind} if kind else {})}
        request.search_attributes.indexed_fields["tenantId"].CopyFrom(
            Payload(metadata=metadata, data=data)
        )
        await call(guarded(connection), "start_workflow_execution", request)

    @pytest.mark.parametrize("kind", [b"KeywordList", b"Text", b"x"])
    async def test_attributes_of_another_type_are_refused(self, connection, kind):
        request = filled(api.StartWorkflowExecutionRequest)
        request.search_attributes.indexed_fields["tenantId"].metadata["type"] = kind
        with pytest.raises(ForbiddenOperationError, match="not the Keyword"):
            await call(guarded(connection), "start_workflow_execution", request)

    @pytest.mark.parametrize("char", ["\n", "\x1b", "\x00", "\u202e"])
    async def test_ids_with_control_characters_are_refused(self, connection, char):
        request = filled_describe()
        request.execution.workflow_id = f"acme:order{char}42"
        with pytest.raises(InvalidIdError):
            await call(guarded(connection), "describe_workflow_execution", request)

    @pytest.mark.parametrize(
        ("given", "sent"),
        [("x", "acme:x"), ("acme:x", "acme:x"), ("beta:x", "acme:beta:x")],
    )
    async def test_ids_of_polls_that_skip_interceptors_get_the_prefix(
        self, connection, given, sent
    ):
        client = guarded(connection)
        update = api.PollWorkflowExecutionUpdateRequest(namespace=NAMESPACE)
        update.update_ref.workflow_execution.workflow_id = given
        await call(client, "poll_workflow_execution_update", update)
        activity = api.PollActivityExecutionRequest(namespace=NAMESPACE, activity_id=given)
        await call(client, "poll_activity_execution", activity)
        assert connection.sent[0].update_ref.workflow_execution.workflow_id == sent
        assert connection.sent[1].activity_id == sent
        assert activity.activity_id == given

    @pytest.mark.parametrize(
        "rpc",
        [rpc for rpc in ALLOWED if rpc.startswith(("list_", "count_")) and "times" not in rpc],
    )
    async def test_lists_and_counts_are_limited_to_the_tenant(self, connection, rpc):
        client = guarded(connection)
        request = ALLOWED[rpc].message(namespace=NAMESPACE)
        await call(client, rpc, request)
        assert "`tenantId` = 'acme'" in connection.sent[0].query
        assert request.query == ""
        request.query = "WorkflowType='t' /* ' */ ) OR (tenantId='beta' /* ' */"
        with pytest.raises(InvalidQueryError):
            await call(client, rpc, request)
        assert len(connection.sent) == 1

    async def test_activity_options_cannot_remove_the_fairness_key(self, connection):
        request = filled(api.UpdateActivityExecutionOptionsRequest)
        for path in ("priority", "priority.fairness_key", "priority.fairness_weight"):
            request.update_mask.paths[:] = [path]
            request.activity_options.ClearField("priority")
            with pytest.raises(ForbiddenOperationError, match="update_mask"):
                await call(guarded(connection), "update_activity_execution_options", request)
            request.activity_options.priority.fairness_key = TENANT
            await call(guarded(connection), "update_activity_execution_options", request)

    @pytest.mark.parametrize("path", ["Priority", "priority.fairnessKey", "task_queue", "", "*"])
    async def test_activity_options_under_other_spellings_are_refused(self, connection, path):
        request = filled(api.UpdateActivityOptionsRequest)
        request.update_mask.paths[:] = [path]
        with pytest.raises(ForbiddenOperationError, match="not an option"):
            await call(guarded(connection), "update_activity_options", request)

    async def test_a_standalone_activity_is_completed_only_under_the_tenants_id(self, connection):
        request = filled(api.RespondActivityTaskCompletedByIdRequest)
        request.workflow_id = ""
        request.activity_id = "acme:x"
        await call(guarded(connection), "respond_activity_task_completed_by_id", request)
        for foreign in ("x", "beta:x", ""):
            request.activity_id = foreign
            with pytest.raises(ForbiddenOperationError, match="activity_id"):
                await call(guarded(connection), "respond_activity_task_completed_by_id", request)


@pytest.fixture
async def placements() -> Placements:
    """acme has a queue, a weight and a priority of its own, beta only a queue."""
    records = [
        TenantRecord(
            "acme",
            task_queues={"orders": "acme-only"},
            fairness_weight=0.1,
            most_urgent_priority=2,
        ),
        TenantRecord("beta", task_queues={"orders": "beta-only"}),
    ]
    placements = Placements(StaticTenantDirectory(records), shared_namespace=NAMESPACE)
    await placements.of("acme")
    return placements


class TestPlacements:
    @pytest.fixture
    def request_(self) -> Any:
        request = filled(api.StartWorkflowExecutionRequest)
        request.task_queue.name = "shared"
        request.priority.fairness_weight = 0.1
        request.priority.priority_key = 2
        return request

    async def test_queues_weight_and_priority_of_the_record_are_allowed(
        self, connection, placements, request_
    ):
        await call(guarded(connection, placements=placements), "start_workflow_execution", request_)
        request_.task_queue.name = "acme-only"
        await call(guarded(connection, placements=placements), "start_workflow_execution", request_)
        assert len(connection.sent) == 2

    @pytest.mark.parametrize("queue", ["beta-only", ""])
    async def test_queues_of_other_tenants_are_refused(
        self, connection, placements, request_, queue
    ):
        request_.task_queue.name = queue
        with pytest.raises(ForbiddenOperationError, match=r"task_queue\.name: task queue"):
            await call(
                guarded(connection, placements=placements), "start_workflow_execution", request_
            )

    @pytest.mark.parametrize("queue", ["/_sys/q/1", "temporal-sys-per-ns-tq", ""])
    async def test_queues_of_the_server_are_refused(self, connection, placements, request_, queue):
        request_.priority.Clear()
        request_.priority.fairness_key = TENANT
        request_.task_queue.name = queue
        with pytest.raises(ForbiddenOperationError, match=r"task_queue\.name: task queue"):
            await call(guarded(connection), "start_workflow_execution", request_)

    @pytest.mark.parametrize("kind", [2, 3])
    async def test_sticky_queues_are_refused(self, connection, placements, request_, kind):
        request_.task_queue.kind = kind
        with pytest.raises(ForbiddenOperationError, match="normal task queues"):
            await call(
                guarded(connection, placements=placements), "start_workflow_execution", request_
            )

    @pytest.mark.parametrize("weight", [0, 1, 0.11])
    async def test_weights_other_than_the_tenants_are_refused(
        self, connection, placements, request_, weight
    ):
        request_.priority.fairness_weight = weight
        with pytest.raises(ForbiddenOperationError, match="weight"):
            await call(
                guarded(connection, placements=placements), "start_workflow_execution", request_
            )

    async def test_a_higher_priority_is_refused(self, connection, placements, request_):
        request_.priority.priority_key = 1
        with pytest.raises(ForbiddenOperationError, match="urgent"):
            await call(
                guarded(connection, placements=placements), "start_workflow_execution", request_
            )


class TestNexusHandlers:
    LINK = Link(
        workflow_event=Link.WorkflowEvent(namespace="second", workflow_id="acme:caller", run_id="r")
    )
    TASK = rules.NexusTask(
        callback_url="temporal://system", callback_headers={"token": "t"}, links=(LINK,)
    )

    def start(self, **header: str) -> Any:
        request = filled(api.StartWorkflowExecutionRequest)
        request.links.append(self.LINK)
        request.completion_callbacks.append(
            Callback(
                nexus=Callback.Nexus(url="temporal://system", header={"token": "t", **header}),
                links=[self.LINK],
            )
        )
        request.on_conflict_options.attach_links = True
        return request

    async def test_links_and_callback_of_the_nexus_task_may_be_attached(self, connection):
        request = self.start(**{"nexus-operation-token": "any"})
        rules._nexus_task.set(self.TASK)
        await call(guarded(connection), "start_workflow_execution", request)
        assert connection.sent == [request]

    @pytest.mark.parametrize("name", ["links", "completion_callbacks", "on_conflict_options"])
    async def test_outside_of_a_nexus_handler_nothing_may_be_attached(self, connection, name):
        request = filled(api.StartWorkflowExecutionRequest)
        request.MergeFrom(_only(self.start(), name))
        with pytest.raises(ForbiddenOperationError, match=rf"{name}.*Nexus"):
            await call(guarded(connection), "start_workflow_execution", request)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda r: r.links[0].workflow_event.MergeFrom(Link.WorkflowEvent(run_id="other")),
            lambda r: r.completion_callbacks[0].nexus.header.update(token="forged"),
            lambda r: r.completion_callbacks[0].nexus.header.update(more="more"),
            lambda r: r.completion_callbacks[0].nexus.header.clear(),
            lambda r: r.completion_callbacks[0].nexus.MergeFrom(Callback.Nexus(url="http://x")),
            lambda r: r.completion_callbacks[0].internal.MergeFrom(Callback.Internal(data=b"x")),
            lambda r: r.completion_callbacks[0].links.add(),
            lambda r: r.completion_callbacks.add(),
        ],
    )
    async def test_other_links_and_callbacks_are_refused(self, connection, spoil):
        request = self.start()
        spoil(request)
        rules._nexus_task.set(self.TASK)
        with pytest.raises(ForbiddenOperationError, match=r"links\[|completion_callbacks\["):
            await call(guarded(connection), "start_workflow_execution", request)
        assert not connection.sent


def _only(request: Message, name: str) -> Any:
    kept = type(request)()
    for field, value in request.ListFields():
        if field.name == name:
            getattr(kept, name).MergeFrom(value)
    return kept
