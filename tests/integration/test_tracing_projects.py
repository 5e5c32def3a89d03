"""Langfuse projects of tenants: no span of one is ever sent to another."""

import asyncio
import logging
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from langfuse import Langfuse
from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import SecretStr
from temporalio.client import Client, WorkflowFailureError

from orkestra import (
    CallableTenantDirectory,
    LangfuseProject,
    OrkestraConfig,
    OrkestraPlugin,
    TenantRecord,
    TenantSettings,
)
from orkestra.langfuse import LangfuseProjects, Loss
from orkestra.testing import Behaviour, LangfuseReceiver, ReceivedSpan
from orkestra.tracing import FinishedSpan, Outcome, trace_attributes
from tests.support.names import Fresh
from tests.support.traced_worker import Traced, record_of
from tests.support.waiting import PATIENCE, PATIENTLY, until
from tests.workflows.observed import Observe
from tests.workflows.traced import Fail, Flaky

EVERYTHING = ["observing", "observing_in_a_thread", "instrumented"]


class Town(Traced):
    """A worker for `acme` and `beta`, who have projects of their own, and `carol`, who has none."""

    def __init__(self, raw: Client, fresh: Fresh, stack: ExitStack, **settings: Any) -> None:
        def receiver(name: str) -> LangfuseReceiver:
            key = f"pk-lf-{name}-{fresh.suffix}"
            return stack.enter_context(LangfuseReceiver(public_key=key))

        self.shared, self.of_acme, self.of_beta = map(receiver, ("shared", "acme", "beta"))
        super().__init__(raw, fresh, self.shared, **settings)
        self.carol = fresh.tenant("carol")
        self.house(
            {
                self.acme: self.project(self.of_acme),
                self.beta: self.project(self.of_beta),
                self.carol: None,
            },
            **settings,
        )

    def house(self, projects: dict[str, LangfuseProject | None], **settings: Any) -> None:
        tenants = {name: TenantSettings(langfuse=own) for name, own in projects.items()}
        config = OrkestraConfig(langfuse=self.shared.settings(**settings), tenants=tenants)
        self.plugin = OrkestraPlugin(config)
        self.sink = self.plugin._state.sink

    def project(self, receiver: LangfuseReceiver, **changes: Any) -> LangfuseProject:
        keys = {"public_key": receiver.public_key, "secret_key": receiver.secret_key}
        return LangfuseProject.model_validate({**keys, "base_url": receiver.url, **changes})

    async def observe(self, tenant: str, *names: str, said: str = "why?", tag: str = "") -> None:
        workflow_id = f"{tag}{tenant}"
        await self.result(Observe.run, list(names), said, tenant=tenant, id=workflow_id)


@pytest.fixture
async def town(raw_client: Client, fresh: Fresh) -> AsyncIterator[Town]:
    with ExitStack() as stack:
        made = Town(raw_client, fresh, stack)
        yield made
        await made.plugin.close()


@pytest.fixture
def quiet_threads() -> Iterator[int]:
    return threading.active_count()


def tenants_of(spans: list[ReceivedSpan]) -> set[object]:
    return {span.trace_metadata["tenant_id"] for span in spans}


async def test_a_tenants_spans_and_observations_are_in_its_own_project_alone(town):
    async with town.worker():
        tenants = (town.acme, town.beta, town.carol)
        rounds = (town.observe(each, *EVERYTHING, tag=str(n)) for each in tenants for n in "123")
        await asyncio.gather(*rounds)
    assert await town.plugin.flush(PATIENTLY)

    homes = {town.acme: town.of_acme, town.beta: town.of_beta, town.carol: town.shared}
    for tenant, receiver in homes.items():
        assert tenants_of(receiver.spans) == {tenant}
        assert len(receiver.spans) == 3 * (4 + 2 * 2 + 1)
        for [root] in receiver.traces().values():
            assert len(list(root.walk())) == 9, root.outline()
        others = homes.keys() - {tenant}
        for other in others:
            assert all(other.encode() not in body for body in receiver.bodies)


async def test_a_client_of_another_project_does_not_carry_observations_there(town):
    async with town.worker():
        await town.observe(town.carol, "observing")
        await town.observe(town.acme, "holding_a_client", said=town.shared.public_key)
        await town.observe(town.beta, "holding_a_client", said=town.of_acme.public_key)
    await town.plugin.flush(PATIENTLY)

    assert tenants_of(town.shared.spans) == {town.carol}
    for receiver in (town.of_acme, town.of_beta):
        assert [span.name for span in receiver.spans].count("held") == 1
        assert len(tenants_of(receiver.spans)) == 1


async def test_wrong_keys_lose_the_spans_of_their_tenant_only(town, caplog):
    wrong = town.project(town.of_acme, secret_key="sk-wrong")
    town.house({town.acme: wrong, town.beta: town.project(town.of_beta)})
    async with town.worker():
        await asyncio.gather(
            town.observe(town.acme, "observing"), town.observe(town.beta, "observing")
        )
        await town.plugin.flush(PATIENTLY)

    assert town.of_acme.spans == town.shared.spans == []
    assert len(town.of_beta.spans) == 4
    assert town.sink.lost == {Loss.REJECTED: 4}
    assert "sk-wrong" not in caplog.text


async def test_two_tenants_may_share_a_project(town):
    together = town.project(town.of_acme)
    town.house({town.acme: together, town.beta: together, town.carol: None})
    async with town.worker():
        await asyncio.gather(
            *(town.observe(tenant, "observing") for tenant in (town.acme, town.beta))
        )
        await town.plugin.flush(PATIENTLY)
    assert tenants_of(town.of_acme.spans) == {town.acme, town.beta}
    assert len(town.of_acme.spans) == 8
    assert len({span.session_id for span in town.of_acme.spans}) == 2


async def test_a_closed_project_sends_its_spans_and_is_opened_again(raw_client, fresh):
    with ExitStack() as stack:
        town = Town(raw_client, fresh, stack, max_open_projects=1)
        async with town.worker():
            for tag in "12":
                for tenant in (town.acme, town.beta):
                    await town.observe(tenant, "observing", tag=tag)
        await town.plugin.flush(PATIENTLY)
        for receiver in (town.of_acme, town.of_beta):
            spans = await asyncio.to_thread(receiver.wait_for, lambda s: len(s) == 8, PATIENCE)
            assert len({span.span_id for span in spans}) == 8
        await town.plugin.close()


async def test_a_custom_directory_may_name_projects(town):
    asked: list[str] = []

    async def find(tenant: str) -> TenantRecord | None:
        asked.append(tenant)
        own = town.project(town.of_acme) if tenant == town.acme else None
        return TenantRecord(tenant, langfuse=own)

    config = OrkestraConfig(langfuse=town.shared.settings())
    town.plugin = OrkestraPlugin(config, directory=CallableTenantDirectory(find))
    async with town.worker():
        await town.observe(town.acme, "observing")
        await town.observe(town.carol, "observing")
    await town.plugin.close()
    assert tenants_of(town.of_acme.spans) == {town.acme}
    assert tenants_of(town.shared.spans) == {town.carol}
    assert len(asked) == 2


@pytest.mark.parametrize("has_own_project", [True, False])
async def test_b20_a_caller_cannot_place_spans_in_a_trace_that_it_names(town, has_own_project):
    victim, of_victim = "ab" * 16, "cd" * 8
    tenant, home = (town.acme, town.of_acme) if has_own_project else (town.carol, town.shared)
    request = {"traceparent": f"00-{victim}-{of_victim}-01"}
    town.sink.start()
    opened = await asyncio.wrap_future(town.sink._shared._opening)
    langfuse = Langfuse(public_key=opened.public_key, secret_key="ignored")

    async with town.worker():
        token = context.attach(TraceContextTextMapPropagator().extract(request))
        try:
            await town.result(Flaky.run, 1, tenant=tenant, id="bare")
            with langfuse.start_as_current_observation(name="request"):
                await town.result(Flaky.run, 1, tenant=tenant, id="observed")
        finally:
            context.detach(token)
    await town.plugin.flush(PATIENTLY)

    spans = [span for span in home.spans if ":" in span.name]
    assert len(spans) == 4
    assert all(span.trace_id != victim and span.parent_id != of_victim for span in spans)
    assert {span.trace_metadata["caller_trace_id"] for span in spans} == {victim}
    linked = {span.trace_metadata["caller_span_id"] for span in spans}
    assert of_victim in linked
    assert len(linked) == 2
    assert len([span for span in spans if span.is_app_root]) == 2


async def test_b20_a_trace_of_one_tenant_is_not_joined_for_another(town):
    town.sink.start()
    await asyncio.wrap_future(town.sink._shared._opening)
    langfuse = Langfuse(public_key=town.shared.public_key, secret_key="ignored")
    async with town.worker():
        with langfuse.start_as_current_observation(name="request"):
            await town.result(Flaky.run, 1, tenant=town.carol, id="first")
            await town.result(Flaky.run, 1, tenant=town.acme, id="second")
    await town.plugin.flush(PATIENTLY)

    [request] = [span for span in town.shared.spans if span.name == "request"]
    assert {span.trace_id for span in town.shared.spans} == {request.trace_id}
    assert tenants_of([span for span in town.shared.spans if span is not request]) == {town.carol}
    assert request.trace_id not in {span.trace_id for span in town.of_acme.spans}
    assert len(town.of_acme.spans) == 2


async def test_b21_labels_and_projects_of_another_tenant_cannot_be_used(town):
    async with town.worker():
        with trace_attributes(user_id=f"{town.acme}:ada", session_id=f"{town.acme}:s"):
            await town.observe(town.carol, "labelling", said=town.acme)
        await town.plugin.flush(PATIENTLY)

    assert town.of_acme.spans == []
    spans = town.shared.spans
    assert {span.name for span in spans} == {"workflow:Observe", "activity:labelling", "labelled"}
    own = f"tenant:{town.carol}"
    for span in spans:
        assert [tag for tag in span.tags if "tenant:" in tag.lower()] == [own], span.name
        assert span.trace_metadata["tenant_id"] == town.carol
        assert span.user_id == f"{town.carol}:{town.acme}:ada"
        assert span.session_id == f"{town.carol}:{town.acme}:s"


async def test_b21_a_refused_execution_is_traced_to_no_project_and_shows_no_input(town, caplog):
    caplog.set_level(logging.ERROR)
    secret = f"secret-{uuid.uuid4().hex}"
    forged = await Client(town.raw.service_client).start_workflow(
        Fail.run, args=[secret], id=f"{town.acme}:forged", task_queue=town.queue
    )
    async with town.worker():
        with pytest.raises(WorkflowFailureError):
            await forged.result()
        await town.observe(town.beta, "observing")
        await town.plugin.flush(PATIENTLY)
    assert town.of_acme.spans == town.shared.spans == []
    for receiver in (town.of_acme, town.of_beta, town.shared):
        assert all(secret.encode() not in body for body in receiver.bodies)


async def test_b23_unknown_tenants_leave_nothing_behind(fresh, quiet_threads):
    asked = 0

    def project_of(tenant: str) -> LangfuseProject | None:
        raise LookupError(tenant)

    async def ask(tenant: str) -> None:
        nonlocal asked
        asked += 1
        raise LookupError(tenant)

    with LangfuseReceiver(public_key=f"pk-{fresh.suffix}") as receiver:
        projects = LangfuseProjects(receiver.settings(queue_size=100), project_of, ask)
        assert await projects.caller(None) is None
        for number in range(100_000):
            projects.emit(record_of(tenant=f"tenant-{number}"))
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert await projects.flush(PATIENTLY)
        assert projects._open == {}
        assert projects._asking == set()
        assert projects._deferred == 0
        assert projects.lost == {Loss.UNKNOWN_TENANT: 100_000}
        assert 0 < asked <= 100_000
        assert receiver.spans == []
        await projects.close(PATIENTLY)
    await until(lambda: threading.active_count() <= quiet_threads + 2)


async def test_b23_few_of_many_projects_are_open_at_once(fresh, quiet_threads):
    with LangfuseReceiver(public_key=f"pk-{fresh.suffix}") as receiver:

        def project_of(tenant: str) -> LangfuseProject | None:
            key = f"{tenant}-{fresh.suffix}"
            return LangfuseProject(public_key=key, secret_key="sk", base_url=receiver.url)

        async def ask(_: str) -> None:
            raise AssertionError

        projects = LangfuseProjects(receiver.settings(max_open_projects=4), project_of, ask)
        most = 0
        for number in range(60):
            projects.emit(record_of(tenant=f"tenant-{number}"))
            await asyncio.sleep(0.01)
            most = max(most, threading.active_count())
        assert len(projects._open) == 4
        await projects.close(PATIENTLY)
        assert most < quiet_threads + 40


async def test_spans_of_a_tenant_wait_for_the_answer_of_the_directory(fresh):
    with LangfuseReceiver(public_key=f"pk-{fresh.suffix}") as receiver:
        known: dict[str, LangfuseProject] = {}
        answer = asyncio.Event()

        def project_of(tenant: str) -> LangfuseProject | None:
            return known[tenant]

        async def ask(tenant: str) -> None:
            await answer.wait()
            keys = {"public_key": receiver.public_key, "secret_key": receiver.secret_key}
            known[tenant] = LangfuseProject.model_validate(keys)

        projects = LangfuseProjects(receiver.settings(), project_of, ask)
        await projects.caller(None)
        await asyncio.to_thread(projects.emit, record_of(tenant="acme"))
        await asyncio.sleep(0)
        assert receiver.spans == []
        answer.set()
        assert await projects.flush(PATIENTLY)
        assert tenants_of(receiver.spans) == {"acme"}
        assert await projects.close(PATIENTLY)
        assert projects.lost == {}


class Street:
    """A project for each of four tenants, who are called by the beginning of their numbers."""

    def __init__(self, fresh: Fresh, stack: ExitStack, **settings: Any) -> None:
        self.houses = [
            stack.enter_context(LangfuseReceiver(public_key=f"pk-{number}-{fresh.suffix}"))
            for number in range(4)
        ]
        shared = self.houses[0].settings(max_open_projects=1, **settings)
        self.projects = LangfuseProjects(shared, self.project_of, self.ask)

    def project_of(self, tenant: str) -> LangfuseProject | None:
        house = self.houses[int(tenant[-1])]
        return LangfuseProject(
            public_key=house.public_key, secret_key=SecretStr(house.secret_key), base_url=house.url
        )

    async def ask(self, _: str) -> None:
        raise AssertionError

    def record(self, number: int) -> FinishedSpan:
        return record_of(tenant=f"tenant-{number % 4}", number=number)

    def numbers(self) -> list[list[int]]:
        return [sorted(int(span.span_id, 16) for span in house.spans) for house in self.houses]


@pytest.fixture
async def street(request: pytest.FixtureRequest, fresh: Fresh) -> AsyncIterator[Street]:
    with ExitStack() as stack:
        made = Street(fresh, stack, **getattr(request, "param", {}))
        yield made
        assert await made.projects.close(PATIENTLY)


async def test_no_span_is_lost_where_more_projects_are_in_use_than_may_be_open(street):
    async def attempt(number: int) -> None:
        record = street.record(number)
        live = await street.projects.enter(record.span)
        assert live is not None
        await asyncio.sleep(0.01 * (number % 3))
        live.end(record.outcome)

    await asyncio.gather(*(attempt(number) for number in range(1, 41)))
    assert await street.projects.flush(PATIENTLY)
    assert street.projects.lost == {}
    assert street.numbers() == [[n for n in range(1, 41) if n % 4 == house] for house in range(4)]


async def test_spans_that_come_after_their_project_was_closed_reach_it(street):
    live = await street.projects.enter(street.record(1).span)
    left_open = street.projects.sink_of("tenant-1")
    live.end(Outcome())
    street.projects.emit(street.record(2))  # which makes room
    assert await street.projects.flush(PATIENTLY)
    left_open.emit(street.record(5))
    assert await street.projects.flush(PATIENTLY)
    assert street.numbers()[1] == [1, 5]
    assert street.projects.lost == {}


@pytest.mark.parametrize("street", [{"flush_timeout": "10ms"}], indirect=True)
async def test_spans_of_a_closed_project_wait_longer_than_those_of_a_shutdown(street):
    house = street.houses[1]
    with house.behaving(Behaviour.UNAVAILABLE):
        street.projects.emit(street.record(1))
        street.projects.emit(street.record(2))  # which makes room
        await asyncio.sleep(0.5)
    assert await asyncio.to_thread(house.wait_for, lambda spans: len(spans) == 1, PATIENCE)
    assert street.projects.lost == {}


async def test_a_flush_waits_for_projects_that_are_being_closed(street):
    for number in range(1, 9):
        street.projects.emit(street.record(number))
    assert await street.projects.flush(PATIENTLY)
    assert street.numbers() == [[4, 8], [1, 5], [2, 6], [3, 7]]


EXITING = """
import asyncio, sys
from orkestra import LangfuseProject, LangfuseSettings
from orkestra.langfuse import LangfuseProjects
from tests.support.traced_worker import record_of

def project_of(tenant):
    return LangfuseProject(public_key=tenant, secret_key="sk", base_url=sys.argv[1])

settings = LangfuseSettings(
    public_key="pk", secret_key="sk", base_url=sys.argv[1], flush_timeout="3s"
)
projects = LangfuseProjects(settings, project_of, None)
for number in range(1, 9):
    projects.emit(record_of(tenant=f"tenant-{number}", number=number))
print("exiting", flush=True)
"""


async def test_the_exit_waits_once_for_all_projects_that_hang():
    with LangfuseReceiver() as receiver, receiver.behaving(Behaviour.HANG):
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", EXITING, receiver.url, stdout=asyncio.subprocess.PIPE
        )
        assert program.stdout is not None
        assert await program.stdout.readline() == b"exiting\n"
        began = time.monotonic()
        assert await asyncio.wait_for(program.wait(), PATIENCE) == 0
        assert time.monotonic() - began < 8 * 3  # which it would take one after the other
