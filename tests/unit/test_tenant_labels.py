"""Tenants as labels of metrics."""

from orkestra.directory import Placements, StaticTenantDirectory, TenantLabels, TenantRecord
from orkestra.directory.placement import MAX_LABELLED


async def labels_of(count: int) -> TenantLabels:
    records = [TenantRecord(f"t{number}") for number in range(count)]
    placements = Placements(StaticTenantDirectory(records), shared_namespace="default")
    for record in records:
        await placements.of(record.tenant)
    return TenantLabels(placements)


def test_without_a_directory_there_is_no_label():
    assert TenantLabels().of("acme") == {}


def test_an_open_directory_labels_every_tenant_as_unknown():
    assert TenantLabels(Placements()).of("acme") == {"tenant": "unknown"}


async def test_only_tenants_of_the_directory_become_labels():
    labels = await labels_of(1)
    assert labels.of("t0") == {"tenant": "t0"}
    assert labels.of("stranger") == labels.of(None) == {"tenant": "unknown"}


async def test_the_number_of_labels_is_bounded():
    labels = await labels_of(MAX_LABELLED + 50)
    seen = {labels.of(f"t{number}")["tenant"] for number in range(MAX_LABELLED + 50)}
    assert len(seen) == MAX_LABELLED + 1
    assert labels.of("t0") == {"tenant": "t0"}
