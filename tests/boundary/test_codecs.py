"""Codecs: the tenant is written in plain JSON, which no codec encodes."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    HeaderCodecBehavior,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
)
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.worker import Worker

from orkestra import TenantMismatchError
from orkestra.config import TenancySettings
from tests.support.guard_attack import refused
from tests.support.requests import payload
from tests.workflows.everything import ACTIVITIES, Child, Everything, Mailbox


class Sealing(PayloadCodec):
    """Encodes everything, and decodes only what it encoded, as such a codec must."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/sealed"}, data=p.SerializeToString())
            for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload.FromString(p.data) if p.metadata["encoding"] == b"binary/sealed" else p
            for p in payloads
        ]


class Lying(PayloadCodec):
    """Replaces every payload by another tenant."""

    def __init__(self, tenant: str, **metadata: bytes) -> None:
        self.payload = payload(tenant, **metadata)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self.payload for _ in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)


def sealed(attack: Any, tenant: str | None, **options: Any) -> Client:
    return attack.desk.client(
        tenant,
        settings=TenancySettings(memo=True),
        data_converter=DataConverter(payload_codec=Sealing()),
        **options,
    )


async def started(raw: Client, workflow_id: str) -> Any:
    """The start event on the server."""
    history = await raw.get_workflow_handle(workflow_id).fetch_history()
    return history.events[0].workflow_execution_started_event_attributes


BEHAVIORS = [HeaderCodecBehavior.NO_CODEC, HeaderCodecBehavior.CODEC]


@pytest.mark.parametrize("behavior", BEHAVIORS, ids=["headers-plain", "headers-coded"])
async def test_b19_header_and_memo_stay_in_plain_json_with_a_codec(attack, behavior):
    desk = attack.desk
    acme = sealed(attack, desk.acme, header_codec_behavior=behavior)
    handle = await acme.start_workflow(
        Mailbox.run, id="c", memo={"note": "secret"}, task_queue="nobody-polls"
    )
    plan = Schedule(
        ScheduleActionStartWorkflow(Mailbox.run, id="s", task_queue="nobody-polls"), ScheduleSpec()
    )
    schedule = await acme.create_schedule("s", plan, memo={"note": "secret"})
    start = await started(desk.raw, handle.id)
    described = await desk.raw.get_schedule_handle(schedule.id).describe()
    action = described.raw_description.schedule.action.start_workflow
    for header, memo in ((start.header, start.memo), (action.header, action.memo)):
        assert header.fields["tenantId"] == payload(desk.acme)
        assert memo.fields["tenantId"] == payload(desk.acme)
    assert start.memo.fields["note"].metadata["encoding"] == b"binary/sealed"
    assert described.raw_description.memo.fields["tenantId"] == payload(desk.acme)
    assert await (await handle.describe()).memo() == {"note": "secret", "tenantId": desk.acme}
    await handle.terminate()
    await schedule.delete()


@asynccontextmanager
async def worker(attack: Any, behavior: HeaderCodecBehavior, queue: str) -> AsyncIterator[None]:
    with ThreadPoolExecutor(4) as threads:
        async with Worker(
            sealed(attack, None, header_codec_behavior=behavior),
            task_queue=queue,
            workflows=[Child, Everything, Mailbox],
            activities=ACTIVITIES,
            activity_executor=threads,
        ):
            yield


@pytest.mark.parametrize("behavior", BEHAVIORS, ids=["headers-plain", "headers-coded"])
async def test_b19_the_tenant_is_carried_everywhere_with_a_codec(attack, behavior, fresh):
    desk, queue = attack.desk, fresh.task_queue("sealed")
    acme = sealed(attack, desk.acme, header_codec_behavior=behavior)
    async with worker(attack, behavior, queue):
        seen = await acme.execute_workflow(Everything.run, 2, id="e", task_queue=queue)
        assert set(seen.tenants.values()) == {desk.acme}
        assert seen.child["tenant"] == desk.acme
        box = await acme.start_workflow(Mailbox.run, id="m", task_queue=queue)
        await box.signal(Mailbox.note, "n")
        assert await box.execute_update(Mailbox.add, "u") == desk.acme
        assert await box.query(Mailbox.count) == (2, desk.acme)
        await box.terminate()


async def test_b19_a_codec_cannot_change_the_tenant(attack):
    """A tenant's own codec sees the header last, before the guard."""
    desk = attack.desk
    start: dict[str, Any] = {"task_queue": "nobody-polls"}

    def lying(**metadata: bytes) -> Client:
        return desk.client(
            desk.acme,
            data_converter=DataConverter(payload_codec=Lying(desk.beta, **metadata)),
            header_codec_behavior=HeaderCodecBehavior.CODEC,
        )

    await refused(
        lying().start_workflow(Mailbox.run, id="l", **start), match=r"header\.fields\['tenantId'\]"
    )
    hidden = await lying(encoding=b"binary/sealed").start_workflow(Mailbox.run, id="l", **start)
    start_event = await started(desk.raw, hidden.id)
    assert start_event.header.fields["tenantId"] == payload(desk.acme)
    await hidden.terminate()


async def test_b19_a_memo_that_names_another_tenant_is_refused_before_it_is_encoded(attack):
    acme = sealed(attack, attack.desk.acme)
    with pytest.raises(TenantMismatchError, match="memo"):
        await acme.start_workflow(
            Mailbox.run, id="m", memo={"tenantId": attack.desk.beta}, task_queue="nobody-polls"
        )
