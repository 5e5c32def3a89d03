"""The directory: its sources, its cache, and the placements of tenants."""

import asyncio
import threading
from datetime import timedelta
from functools import partial

import pytest

from orkestra.config import OrkestraConfig, TenantSettings
from orkestra.directory import (
    CachedTenantDirectory,
    CallableTenantDirectory,
    OpenTenantDirectory,
    Place,
    Placements,
    StaticTenantDirectory,
    TenantRecord,
    TenantStatus,
)
from orkestra.errors import (
    ConfigurationError,
    DirectoryUnavailableError,
    InvalidTenantError,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
)
from orkestra.temporal.tenant.admission import LoopBridge
from tests.support.waiting import PATIENCE, PATIENTLY

SECOND = timedelta(seconds=1)


class Clock:
    """Clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by.total_seconds()


class Source:
    """Directory that counts its questions, and can be slow or fail."""

    def __init__(self, *records: TenantRecord) -> None:
        self.records = {record.tenant: record for record in records}
        self.questions = 0
        self.delay = 0.0
        self.error: Exception | None = None

    async def find(self, tenant: str) -> TenantRecord | None:
        self.questions += 1
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return self.records.get(tenant)

    async def dedicated(self) -> list[TenantRecord]:
        return [record for record in self.records.values() if record.is_dedicated]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source(TenantRecord("acme"))


@pytest.fixture
def cached(source, clock) -> CachedTenantDirectory:
    return CachedTenantDirectory(
        source,
        ttl=10 * SECOND,
        stale_for=60 * SECOND,
        deadline=PATIENTLY,
        max_entries=100,
        clock=clock,
    )


async def test_the_configuration_file_is_a_directory(tmp_path):
    file = tmp_path / "orkestra.toml"
    file.write_text("""
[tenants.acme]
namespace = "acme"
fairness_weight = 2
most_urgent_priority = 1

[tenants.beta]
status = "suspended"
task_queues = { orders = "beta-orders" }
""")
    directory = StaticTenantDirectory.from_settings(OrkestraConfig.load(file).tenants)
    assert await directory.find("acme") == TenantRecord(
        "acme", namespace="acme", fairness_weight=2.0, most_urgent_priority=1
    )
    beta = await directory.find("beta")
    assert beta is not None
    assert beta.status is TenantStatus.SUSPENDED
    assert beta.task_queues == {"orders": "beta-orders"}
    assert await directory.find("gamma") is None
    assert [record.tenant for record in await directory.dedicated()] == ["acme", "beta"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[tenants.acme]\nstatus = "paused"', r"tenants\.acme\.status = 'paused'"),
        ("[tenants.acme]\nfairness_weight = 0", r"tenants\.acme\.fairness_weight = 0"),
        ("[tenants.acme]\nmost_urgent_priority = 6", r"most_urgent_priority = 6"),
        ('[tenants.acme]\nqueue = "x"', r"tenants\.acme\.queue = 'x' .* unknown key"),
    ],
)
def test_an_error_names_the_wrong_setting_of_a_tenant(tmp_path, text, complaint):
    file = tmp_path / "orkestra.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        OrkestraConfig.load(file)


def test_an_error_names_the_malformed_tenant():
    with pytest.raises(ConfigurationError, match=r"tenants\.Acme: tenant 'Acme' is malformed"):
        StaticTenantDirectory.from_settings({"Acme": TenantSettings()})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"fairness_weight": 1001.0}, "fairness_weight 1001.0"),
        ({"most_urgent_priority": 0}, "most_urgent_priority 0"),
        ({"task_queues": {"orders": ""}}, "may be empty"),
        ({"task_queues": {"a": "b", "b": "c"}}, "'b' is its own and mapped to another"),
    ],
)
def test_a_record_out_of_range_is_refused(options, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        TenantRecord("acme", **options)
    with pytest.raises(InvalidTenantError):
        TenantRecord("Not A Tenant")


def test_two_records_of_one_tenant_are_refused():
    with pytest.raises(ConfigurationError, match="has two records"):
        StaticTenantDirectory([TenantRecord("acme"), TenantRecord("acme", namespace="x")])


async def test_sync_and_async_functions_make_a_directory():
    async def find_async(tenant: str) -> TenantRecord | None:
        return TenantRecord(tenant)

    threads: list[str] = []

    def find(tenant: str) -> TenantRecord | None:
        threads.append(threading.current_thread().name)
        return None if tenant == "beta" else TenantRecord(tenant, namespace="own")

    assert await CallableTenantDirectory(find_async).find("acme") == TenantRecord("acme")
    assert await CallableTenantDirectory(find_async).dedicated() == ()
    assert await CallableTenantDirectory(partial(find_async)).find("acme") == TenantRecord("acme")
    sync = CallableTenantDirectory(find, dedicated=lambda: [TenantRecord("acme", namespace="own")])
    assert await sync.find("acme") == TenantRecord("acme", namespace="own")
    assert await sync.find("beta") is None
    assert len(await sync.dedicated()) == 1
    assert threading.current_thread().name not in threads


async def test_a_thousand_concurrent_callers_cause_one_question(cached, source):
    source.delay = 0.01
    found = await asyncio.gather(*(cached.find("acme") for _ in range(1000)))
    assert found == [TenantRecord("acme")] * 1000
    assert source.questions == 1


async def test_a_caller_that_gives_up_does_not_cancel_the_question(cached, source):
    source.delay = 0.03
    first, second = (
        asyncio.create_task(cached.find("acme")),
        asyncio.create_task(cached.find("acme")),
    )
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second == TenantRecord("acme")
    assert source.questions == 1


async def test_a_change_takes_effect_within_the_time_to_live(cached, source, clock):
    assert (await cached.find("acme")).is_active
    source.records["acme"] = TenantRecord("acme", status=TenantStatus.SUSPENDED)
    clock.advance(9 * SECOND)
    assert (await cached.find("acme")).is_active
    clock.advance(SECOND)
    assert not (await cached.find("acme")).is_active


async def test_an_unknown_tenant_is_remembered_for_five_seconds(cached, source, clock):
    assert await cached.find("new") is None
    assert await cached.find("new") is None
    assert source.questions == 1
    source.records["new"] = TenantRecord("new")
    clock.advance(5 * SECOND)
    assert await cached.find("new") == TenantRecord("new")


async def test_old_answers_are_used_for_a_limited_time_while_the_source_fails(
    cached, source, clock, caplog
):
    await cached.find("acme")
    source.error = OSError("database is away")
    clock.advance(11 * SECOND)
    assert await cached.find("acme") == TenantRecord("acme")
    assert "database is away" in caplog.text
    asked = source.questions
    assert await cached.find("acme") == TenantRecord("acme")
    assert source.questions == asked, "a source that just failed is left alone for a moment"
    clock.advance(59 * SECOND)
    with pytest.raises(DirectoryUnavailableError, match="OSError: database is away"):
        await cached.find("acme")
    source.error = None
    assert await cached.find("acme") == TenantRecord("acme")


async def test_a_failing_source_makes_no_tenant_unknown(cached, source, clock):
    assert await cached.find("new") is None
    clock.advance(6 * SECOND)
    source.error = OSError("away")
    for tenant in ("new", "never-asked-for"):
        with pytest.raises(DirectoryUnavailableError):
            await cached.find(tenant)


async def test_a_source_that_hangs_fails_at_the_deadline(source):
    source.delay = 2 * PATIENCE
    hurried = CachedTenantDirectory(source, deadline=SECOND / 10)
    with pytest.raises(DirectoryUnavailableError, match=r"no answer within 0\.1 s"):
        await asyncio.wait_for(hurried.find("acme"), PATIENCE)


async def test_a_record_of_another_tenant_counts_as_no_answer(cached, source):
    source.records["beta"] = TenantRecord("acme")
    with pytest.raises(DirectoryUnavailableError, match="compare IDs exactly"):
        await cached.find("beta")


async def test_unknown_tenants_are_bounded_and_displace_no_known_ones(cached, source):
    await cached.find("acme")
    for number in range(5000):
        assert await cached.find(f"made-up-{number}") is None
    assert len(cached) == 101
    asked = source.questions
    assert await cached.find("acme") == TenantRecord("acme")
    assert source.questions == asked


async def test_known_tenants_are_bounded(source, clock):
    cached = CachedTenantDirectory(OpenTenantDirectory(), max_entries=10, clock=clock)
    for number in range(100):
        await cached.find(f"t{number}")
    assert len(cached) == 10


def test_a_directory_works_on_one_event_loop_after_another(cached):
    for _ in range(2):
        assert asyncio.run(cached.find("acme")) == TenantRecord("acme")


ACME = TenantRecord("acme", task_queues={"orders": "acme-orders"})
BETA = TenantRecord("beta", namespace="beta-space")
GOLD = [TenantRecord(name, task_queues={"orders": "gold"}) for name in ("gold-1", "gold-2")]
PLAIN = TenantRecord("plain")


@pytest.fixture
def placements() -> Placements:
    directory = StaticTenantDirectory([ACME, BETA, PLAIN, *GOLD])
    return Placements(directory, shared_namespace="default")


async def test_a_queue_name_means_the_tenants_own_or_a_shared_queue(placements):
    acme, plain = await placements.of("acme"), await placements.of("plain")
    assert acme.queue("orders") == acme.queue("acme-orders") == "acme-orders"
    assert acme.queue("reports") == "reports"
    assert plain.queue("orders") == "orders"
    assert (await placements.of("gold-1")).queue("orders") == "gold"
    for queue in ("acme-orders", "gold"):
        with pytest.raises(TenantMismatchError, match=queue):
            plain.queue(queue)


async def test_work_that_starts_where_its_tenant_is_not_placed_is_refused(placements):
    acme, beta, plain = [await placements.of(name) for name in ("acme", "beta", "plain")]
    acme.require_place("default", "acme-orders", is_start=True)
    beta.require_place("beta-space", "orders", is_start=True)
    for tenant, namespace, queue, problem in (
        (acme, "default", "orders", "maps queue 'orders'"),
        (acme, "beta-space", "orders", "not this tenant's"),
        (beta, "default", "orders", "places this tenant in"),
        (plain, "default", "gold", "not this tenant's"),
        (plain, "staging", "orders", "places this tenant in"),
    ):
        with pytest.raises(TenantMismatchError, match=problem):
            tenant.require_place(namespace, queue, is_start=True)


async def test_what_was_started_before_a_tenant_moved_may_go_on_in_a_shared_place(placements):
    acme, beta = await placements.of("acme"), await placements.of("beta")
    acme.require_place("default", "orders", is_start=False)
    beta.require_place("default", "orders", is_start=False)
    with pytest.raises(TenantMismatchError):
        acme.require_place("beta-space", "orders", is_start=False)
    with pytest.raises(TenantMismatchError):
        beta.require_place("default", "acme-orders", is_start=False)


async def test_unknown_and_suspended_tenants_raise_different_errors(placements):
    with pytest.raises(UnknownTenantError, match="'nobody'"):
        await placements.of("nobody")
    suspended = StaticTenantDirectory([TenantRecord("late", status=TenantStatus.SUSPENDED)])
    with pytest.raises(TenantSuspendedError, match="'late' is suspended"):
        (await Placements(suspended).of("late")).require_active()


async def test_an_open_directory_accepts_every_place():
    placements = Placements(shared_namespace="default")
    acme = placements.remembered("acme")
    assert acme is not None
    assert acme == await placements.of("acme")
    acme.require_active()
    acme.require_namespace("anything")
    assert acme.queue("anything") == "anything"
    acme.require_place("anything", "at all", is_start=True)


async def test_a_remembered_placement_needs_no_question(placements):
    assert placements.remembered("acme") is None
    asked = await placements.of("acme")
    assert placements.remembered("acme") == asked
    with pytest.raises(UnknownTenantError):
        await placements.of("nobody")
    with pytest.raises(UnknownTenantError):
        placements.remembered("nobody")


async def test_every_place_of_a_queue_is_listed_with_its_owners(placements):
    assert await placements.served("orders", namespace="default") == [
        Place("default", "orders"),
        Place("beta-space", "orders", frozenset({"beta"})),
        Place("default", "acme-orders", frozenset({"acme"})),
        Place("default", "gold", frozenset({"gold-1", "gold-2"})),
    ]


@pytest.mark.parametrize(
    ("tenants", "namespace", "queue", "complaint"),
    [
        (["plain"], "default", "orders", "is shared"),
        (["gold-1"], "default", "gold", "is also for .'gold-2'."),
        (["acme", "gold-1", "gold-2"], "default", "gold", "is not for .'acme'."),
    ],
)
async def test_a_worker_limited_to_tenants_needs_a_queue_of_their_own(
    placements, tenants, namespace, queue, complaint
):
    with pytest.raises(ConfigurationError, match=complaint):
        await placements.require_exclusive(tenants, namespace=namespace, task_queue=queue)


async def test_a_queue_of_some_tenants_may_have_a_worker_of_theirs(placements):
    await placements.require_exclusive(["acme"], namespace="default", task_queue="acme-orders")
    await placements.require_exclusive(["beta"], namespace="beta-space", task_queue="anything")
    everyone = ["gold-1", "gold-2"]
    await placements.require_exclusive(everyone, namespace="default", task_queue="gold")
    with pytest.raises(UnknownTenantError):
        await placements.require_exclusive(["x"], namespace="default", task_queue="gold")


async def test_a_dedicated_place_that_is_not_listed_is_refused():
    forgetful = CallableTenantDirectory(lambda tenant: TenantRecord(tenant, namespace="own"))
    with pytest.raises(DirectoryUnavailableError, match="does not list it"):
        await Placements(forgetful, shared_namespace="default").of("acme")
    listed: list[TenantRecord] = []
    late = CallableTenantDirectory(
        lambda tenant: TenantRecord(tenant, namespace="own"), dedicated=lambda: listed
    )
    placements = Placements(late, shared_namespace="default")
    with pytest.raises(DirectoryUnavailableError):
        await placements.of("acme")
    listed.append(TenantRecord("acme", namespace="own"))
    assert (await placements.of("acme")).namespace == "own"


async def test_the_last_placement_is_available_without_asking(placements):
    assert placements.last("acme") is None
    asked = await placements.of("acme")
    assert placements.last("acme") == asked
    assert Placements().last("anyone") is not None


async def test_a_worker_uses_the_last_known_answer_of_a_source_that_hangs(clock):
    async def hanging(tenant: str) -> TenantRecord | None:
        if clock.now > Clock().now:
            await asyncio.Event().wait()
        return TenantRecord(tenant)

    directory = CachedTenantDirectory(CallableTenantDirectory(hanging), clock=clock)
    placements = Placements(directory, shared_namespace="default")
    known = await placements.of("acme")
    clock.now += 60
    bridge = LoopBridge(placements)
    bridge.begin_activation()
    # A worker asks on the workflow's thread, so that the event loop can answer.
    assert await asyncio.to_thread(bridge.placement, "acme") == known
