"""Workers of a real server in the sandbox that costs less, beside the SDK's own."""

import asyncio
import dataclasses
import importlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import (
    DataConverter,
    DefaultPayloadConverter,
    ExternalStorage,
    PayloadCodec,
    PayloadConverter,
    SerializationContext,
    StorageDriver,
    StorageDriverClaim,
    WithSerializationContext,
)
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra import OrkestraConfig, OrkestraPlugin, TenancySettings
from orkestra.temporal.sandbox import CachingSandboxRunner
from tests.support.replaying import replaying
from tests.workflows import contexts

Seen = set[tuple[str, str, bytes]]
"""What was done with a value, in which context."""


class SdksOwnSandbox(SandboxedWorkflowRunner):
    """Kept as it is, because it is somebody's own."""


class NotingCodec(PayloadCodec, WithSerializationContext):
    def __init__(self, seen: Seen, context: SerializationContext | None = None) -> None:
        self._seen, self._context = seen, context

    def with_context(self, context: SerializationContext) -> "NotingCodec":
        return NotingCodec(self._seen, context)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        self._seen |= {("encode", repr(self._context), each.data) for each in payloads}
        noted = {"encoding": b"binary/noted"}
        encoded = [each.SerializeToString(deterministic=True) for each in payloads]
        return [Payload(metadata=noted, data=data) for data in encoded]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        decoded = [Payload.FromString(each.data) for each in payloads]
        self._seen |= {("decode", repr(self._context), each.data) for each in decoded}
        return decoded


class NotingDriver(StorageDriver):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def name(self) -> str:
        return "noting"

    async def store(self, context: Any, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        target = context.target
        if target is not None:  # whose run ID is another each time
            target = dataclasses.replace(target, run_id=target.run_id and "of a run")
        claims = [each.SerializeToString(deterministic=True).hex() for each in payloads]
        self._seen |= {("store", repr(target), each.data) for each in payloads}
        return [StorageDriverClaim({"payload": claim}) for claim in claims]

    async def retrieve(self, _: Any, claims: Sequence[StorageDriverClaim]) -> list[Payload]:
        return [Payload.FromString(bytes.fromhex(each.claim_data["payload"])) for each in claims]


def noting_converter(seen: Seen, context: Any = None) -> type[PayloadConverter]:
    class NotingConverter(DefaultPayloadConverter, WithSerializationContext):
        def with_context(self, context: SerializationContext) -> PayloadConverter:
            return noting_converter(seen, context)()

        def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
            made = super().to_payloads(values)
            seen.update(("write", repr(context), each.data) for each in made)
            return made

        def from_payloads(
            self, payloads: Sequence[Payload], type_hints: list[type] | None = None
        ) -> list[Any]:
            seen.update(("read", repr(context), each.data) for each in payloads)
            return super().from_payloads(payloads, type_hints)

    return NotingConverter


@pytest.fixture
def plugin() -> OrkestraPlugin:
    return OrkestraPlugin(OrkestraConfig(tenancy=TenancySettings(mode="off")))


async def values_sent(client: Client, name: str, queue: str, endpoint: str) -> None:
    other = await client.start_workflow("Listens", id=f"{name}-other", task_queue=queue)
    sends = await client.start_workflow(
        "Sends", endpoint, id=name, task_queue=queue, memo={"first": "note"}
    )
    assert await sends.query("asked", "query") == "queried query"
    assert await sends.execute_update("change", "update") == "updated update"
    assert await other.result() == "heard signal"
    await sends.signal("go_on", "on")
    assert await sends.result() == ["continued"]


async def test_values_have_the_contexts_that_the_sdks_own_sandbox_gives_them(
    raw_client, plugin, fresh
):
    queue, endpoint = fresh.task_queue(), f"contexts-{fresh.suffix}"
    name = fresh.workflow_id()
    target = EndpointTarget(
        worker=EndpointTarget.Worker(namespace=raw_client.namespace, task_queue=queue)
    )
    await raw_client.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(spec=EndpointSpec(name=endpoint, target=target))
    )

    async def seen_with(runner: SandboxedWorkflowRunner, kind: type) -> Seen:
        seen: Seen = set()
        converter = DataConverter(
            payload_converter_class=noting_converter(seen),
            payload_codec=NotingCodec(seen),
            external_storage=ExternalStorage([NotingDriver(seen)], payload_size_threshold=0),
        )
        client = Client(raw_client.service_client, data_converter=converter, plugins=[plugin])
        worker = Worker(
            client,
            task_queue=queue,
            workflows=contexts.WORKFLOWS,
            activities=[contexts.answers],
            nexus_service_handlers=[contexts.CounterHandler()],
            workflow_runner=runner,
            max_cached_workflows=0,  # so that values of the past are read again
        )
        async with worker:
            made = worker.config(active_config=True)["workflow_runner"]
            assert type(getattr(made, "inner", made)) is kind
            await values_sent(client, name, queue, endpoint)
        return seen

    theirs = await seen_with(SdksOwnSandbox(), SdksOwnSandbox)
    ours = await seen_with(SandboxedWorkflowRunner(), CachingSandboxRunner)
    assert ours == theirs
    assert {context.partition("(")[0] for _, context, _ in ours} == {
        "None",
        "ActivitySerializationContext",
        "NexusSerializationContext",
        "StorageDriverWorkflowInfo",
        "WorkflowSerializationContext",
    }
    child = f"WorkflowSerializationContext(namespace='default', workflow_id='{name}-child')"
    assert {what for what, context, data in ours if (context, data) == (child, b'"child"')} == {
        "write",
        "encode",
        "decode",
        "read",
    }


COUNTS = """
from temporalio import workflow
from temporalio.exceptions import ApplicationError

RUNS = []
SAYS = {says!r}

@workflow.defn
class Counts:
    @workflow.run
    async def run(self, fails: bool) -> list[str]:
        RUNS.append(SAYS)
        if fails:
            raise ApplicationError("failed")  # {says}
        return RUNS
"""


async def test_a_worker_runs_the_code_that_it_loaded_and_a_new_one_the_reloaded_code(
    raw_client, plugin, fresh, desk
):
    queue = fresh.task_queue()
    client = Client(raw_client.service_client, plugins=[plugin])

    async def run(name: str) -> list[str]:
        return await client.execute_workflow(
            "Counts", False, id=fresh.workflow_id(name), task_queue=queue, result_type=list[str]
        )

    desk.write({"counts": COUNTS.format(says="first")})
    counts = importlib.import_module("counts")
    async with Worker(client, task_queue=queue, workflows=[counts.Counts]):
        assert await asyncio.gather(*map(run, "abc")) == [["first"]] * 3
        with pytest.raises(WorkflowFailureError) as caught:
            await client.execute_workflow("Counts", True, id=fresh.workflow_id(), task_queue=queue)
        failure = caught.value.cause.failure
        assert 'raise ApplicationError("failed")  # first' in failure.stack_trace
        assert f'{desk.root / "counts.py"}", line 14, in run' in failure.stack_trace
        desk.write({"counts": COUNTS.format(says="and then")})
        assert await run("edited") == ["first"]
    counts = importlib.reload(counts)
    async with Worker(client, task_queue=queue, workflows=[counts.Counts]):
        assert await asyncio.gather(*map(run, "def")) == [["and then"]] * 3
    assert counts.RUNS == []
    history = await client.get_workflow_handle(fresh.workflow_id("d")).fetch_history()
    with replaying(workflows=[counts.Counts], plugins=[plugin]) as replayer:
        assert (await replayer.replay_workflow(history)).replay_failure is None


async def test_a_worker_without_the_plugin_runs_beside_one_with_it(raw_client, plugin, fresh, desk):
    desk.write({"counts": COUNTS.format(says="here")})
    counts = importlib.import_module("counts")
    ours = Client(raw_client.service_client, plugins=[plugin])
    clients = {fresh.task_queue("ours"): ours, fresh.task_queue("bare"): raw_client}
    async with AsyncExitStack() as stack:
        for queue, client in clients.items():
            worker = Worker(client, task_queue=queue, workflows=[counts.Counts])
            await stack.enter_async_context(worker)
        answers = [
            client.execute_workflow("Counts", False, id=f"{queue}-{n}", task_queue=queue)
            for queue, client in clients.items()
            for n in range(5)
        ]
        assert await asyncio.gather(*answers) == [["here"]] * 10
