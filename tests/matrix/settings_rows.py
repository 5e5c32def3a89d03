"""Rows: settings that change calls: global IDs, codecs for headers, dedicated queues."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, HeaderCodecBehavior
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.worker import Worker

from orkestra import (
    ForbiddenOperationError,
    OrkestraConfig,
    OrkestraPlugin,
    TenancySettings,
    TenantMismatchError,
)
from orkestra.directory import StaticTenantDirectory, TenantRecord
from tests.matrix.model import NO_CODE, Check, Impossible, Row
from tests.matrix.side import (
    Side,
    fails,
    not_found,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.forged_headers import tenant_header
from tests.workflows.everything import Mailbox
from tests.workflows.matrix import Whose

GLOBAL: Final = OrkestraPlugin(OrkestraConfig(tenancy=TenancySettings(workflow_ids="global")))
CODED: Final = HeaderCodecBehavior.CODEC


class Hiding(PayloadCodec):
    """Encodes payloads, and decodes only those that it encoded."""

    def __init__(self, forged: str | None = None) -> None:
        self._forged = forged

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self._forged is not None:
            return [tenant_header(self._forged)["tenantId"] for _ in payloads]
        kind = {"encoding": b"binary/hidden"}
        return [Payload(metadata=kind, data=each.SerializeToString()) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload.FromString(each.data) if b"hidden" in each.metadata["encoding"] else each
            for each in payloads
        ]


def _client(side: Side, plugin: OrkestraPlugin, tenant: str | None, **options: Any) -> Client:
    return Client(side.raw.service_client, plugins=[plugin.for_tenant(tenant)], **options)


def _coded(side: Side, tenant: str | None, forged: str | None = None) -> Client:
    converter = DataConverter(payload_codec=Hiding(forged))
    return _client(side, side.plugin, tenant, data_converter=converter, header_codec_behavior=CODED)


@asynccontextmanager
async def _served(side: Side, client: Client, kind: str) -> AsyncIterator[str]:
    """A queue with its own worker, without a cache where the side's worker has none."""
    queue = f"{kind}-{side.tenant}-{side.queue}"
    cache = 0 if side.queue.startswith("replayed") else 1000
    async with Worker(
        client, task_queue=queue, workflows=[Whose, Mailbox], max_cached_workflows=cache
    ):
        yield queue


async def _start(client: Client, name: str, queue: str, **options: Any) -> Any:
    return await client.execute_workflow(Whose.run, id=name, task_queue=queue, **options)


async def _global_carried(side: Side) -> None:
    name = f"{side.name()}-of-{side.tenant}"
    async with _served(side, _client(side, GLOBAL, None), "global") as queue:
        assert await _start(_client(side, GLOBAL, side.tenant), name, queue) == side.tenant
    history = await side.raw.get_workflow_handle(name).fetch_history()
    fields = history.events[0].workflow_execution_started_event_attributes.header.fields
    assert fields["tenantId"] == tenant_header(side.tenant)["tenantId"]


async def _global_missing(side: Side) -> None:
    await refused_without_tenant(
        side, lambda _: _start(_client(side, GLOBAL, None), side.name(), side.queue)
    )
    async with _served(side, _client(side, GLOBAL, None), "global") as queue:
        with fails("TenantRequired"):
            await _start(side.raw, f"raw-{side.name()}-{side.tenant}", queue)


async def _global_mismatch(side: Side) -> None:
    client = _client(side, GLOBAL, side.tenant)
    await refused_for_two(side, lambda _: _start(client, side.name(), side.queue))
    with pytest.raises(TenantMismatchError, match=side.rival):
        await _start(client, side.name(), side.queue, memo={"tenantId": side.rival})


async def _global_other(side: Side) -> None:
    name = f"victim-{side.name()}-of-{side.rival}"
    own, rival = (_client(side, GLOBAL, each) for each in (side.tenant, side.rival))
    async with _served(side, _client(side, GLOBAL, None), "global") as queue:
        victim = await rival.start_workflow(Mailbox.run, id=name, task_queue=queue)
        attached = {"id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING}
        with pytest.raises(WorkflowAlreadyStartedError):
            await own.start_workflow(Mailbox.run, id=name, task_queue=queue, **attached)
        ending = {"id_conflict_policy": WorkflowIDConflictPolicy.TERMINATE_EXISTING}
        with pytest.raises(ForbiddenOperationError):
            await own.start_workflow(Mailbox.run, id=name, task_queue=queue, **ending)
        found = own.get_workflow_handle(name)
        for call in (found.signal("finish"), found.query("count"), found.terminate()):
            with not_found():
                await call
        assert tuple(await victim.query(Mailbox.count)) == (0, side.rival)
        await victim.terminate()


async def _coded_carried(side: Side) -> None:
    async with _served(side, _coded(side, None), "coded") as queue:
        assert await _start(_coded(side, side.tenant), side.name(), queue) == side.tenant
    history = await side.at_server(side.name()).fetch_history()
    fields = history.events[0].workflow_execution_started_event_attributes.header.fields
    assert fields["tenantId"] == tenant_header(side.tenant)["tenantId"]


async def _coded_missing(side: Side) -> None:
    await refused_without_tenant(
        side, lambda _: _start(_coded(side, None), side.name(), side.queue)
    )


async def _coded_mismatch(side: Side) -> None:
    lying = _coded(side, side.tenant, side.rival)
    with pytest.raises(ForbiddenOperationError, match="header"):
        await _start(lying, side.name(), side.queue)
    await side.absent(side.own(side.name()))


def _mapped(side: Side, tenant: str | None) -> Client:
    """A client where the directory gives each of the two a queue of its own."""
    records = [
        TenantRecord(each, task_queues={"work": f"work-of-{each}"})
        for each in (side.tenant, side.rival)
    ]
    return _client(side, OrkestraPlugin(directory=StaticTenantDirectory(records)), tenant)


async def _queue_carried(side: Side) -> None:
    handle = await _mapped(side, side.tenant).start_workflow(
        Whose.run, id=side.name(), task_queue="work"
    )
    assert (await handle.describe()).task_queue == f"work-of-{side.tenant}"
    await handle.terminate()


async def _queue_missing(side: Side) -> None:
    await refused_without_tenant(side, lambda _: _start(_mapped(side, None), side.name(), "work"))


async def _queue_mismatch(side: Side) -> None:
    await refused_for_two(side, lambda _: _start(_mapped(side, side.tenant), side.name(), "work"))


async def _queue_other(side: Side) -> None:
    with pytest.raises(TenantMismatchError, match="task queue"):
        await _start(_mapped(side, side.tenant), side.name(), f"work-of-{side.rival}")
    await side.absent(side.own(side.name()))


_BEFORE: Final = "refused before it is sent"

SETTINGS: Final = (
    Row(
        kind='start and calls by ID with `workflow_ids = "global"`',
        carried=Check("the workflow sees it, and the start event's header has it", _global_carried),
        missing=Check(f"{_BEFORE}; sent without Orkestra, refused by the worker", _global_missing),
        mismatch=Check(f"another tenant's memo or scope: {_BEFORE}", _global_mismatch),
        other=Check(
            "another's workflow is not attached to, not terminated and not found", _global_other
        ),
    ),
    Row(
        kind="start with `HeaderCodecBehavior.CODEC`",
        carried=Check("the workflow sees it; the header is plain JSON", _coded_carried),
        missing=Check(_BEFORE, _coded_missing),
        mismatch=Check("a codec that writes another tenant: refused by the guard", _coded_mismatch),
        other=Impossible("A codec sees payloads, and names nothing that belongs to a tenant."),
    ),
    Row(
        kind="start on a dedicated task queue",
        carried=Check("it goes to the tenant's own queue in the directory", _queue_carried),
        missing=Check(_BEFORE, _queue_missing),
        mismatch=Check(f"in another tenant's scope: {_BEFORE}", _queue_mismatch),
        other=Check("another's queue cannot be named", _queue_other),
        replay=NO_CODE,
    ),
)
