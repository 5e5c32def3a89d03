"""The tenant context: the grammar, the scope and scoped IDs."""

import asyncio
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orkestra.errors import InvalidIdError, InvalidTenantError, TenantMismatchError
from orkestra.tenancy import (
    ALL_TENANTS,
    check_id,
    check_tenant_id,
    current_tenant,
    is_tenant_id,
    owner_of,
    scope_id,
    tenant_scope,
)

tenants = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(
    lambda value: not value.startswith("temporal")
)
ids = st.text(string.ascii_letters + string.digits + ":/._- é", min_size=1, max_size=80)


@pytest.mark.parametrize("tenant", ["a", "0", "acme", "a.b_c-d", "a" * 63, "acme-2024"])
def test_well_formed_tenants_are_accepted(tenant):
    assert check_tenant_id(tenant) == tenant


@pytest.mark.parametrize(
    "tenant",
    [
        *("", "Acme", "acme ", " acme", "acme\n", "acme:x", "é", "-acme", ".acme", "a" * 64),
        *(
            "temporal",
            "temporal-sys-scheduler",
            "a'b",
            'a"b',
            "a\x00",
            "a/b",
            "*",
            None,
            7,
            b"acme",
        ),
    ],
)
def test_malformed_tenants_are_refused_with_their_value(tenant):
    with pytest.raises(InvalidTenantError, match="malformed") as caught:
        check_tenant_id(tenant)
    assert repr(tenant) in str(caught.value)
    assert not is_tenant_id(tenant)


class Chameleon(str):
    """Equal to every other string, and never where a reserved prefix is looked for."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def startswith(self, *_prefixes: object) -> bool:
        return False


def test_a_string_that_equals_every_tenant_does_not_enter_another():
    with tenant_scope("acme"), pytest.raises(TenantMismatchError), tenant_scope(Chameleon("beta")):
        pass
    assert type(check_tenant_id(Chameleon("beta"))) is str
    with pytest.raises(InvalidTenantError):
        check_tenant_id(Chameleon("temporal-sys-scheduler"))


def test_no_string_is_the_operators_scope():
    assert not is_tenant_id(ALL_TENANTS)
    assert is_tenant_id("all") is True
    assert repr(ALL_TENANTS) == "ALL_TENANTS"


def test_a_scope_sets_the_tenant_and_resets_it():
    assert current_tenant() is None
    with tenant_scope("acme") as tenant:
        assert (tenant, current_tenant()) == ("acme", "acme")
        with tenant_scope("acme"):
            assert current_tenant() == "acme"
        assert current_tenant() == "acme"
    assert current_tenant() is None


def test_another_tenant_cannot_be_entered_from_inside_a_scope():
    with (
        tenant_scope("acme"),
        pytest.raises(TenantMismatchError, match=r"'beta'.*'acme'"),
        tenant_scope("beta"),
    ):
        pytest.fail("entered")
    assert current_tenant() is None


async def test_concurrent_tasks_keep_their_own_tenant():
    async def seen(tenant: str) -> list[str | None]:
        with tenant_scope(tenant):
            found = []
            for _ in range(20):
                await asyncio.sleep(0)
                found.append(current_tenant())
            return found

    results = await asyncio.gather(*(seen(f"t{number}") for number in range(50)))
    assert [set(found) for found in results] == [{f"t{number}"} for number in range(50)]


@given(tenants, ids)
def test_a_scoped_id_names_its_owner_and_scoping_twice_changes_nothing(tenant, user_id):
    scoped = scope_id(tenant, user_id)
    assert owner_of(scoped) == tenant
    assert scope_id(tenant, scoped) == scoped
    assert scoped.endswith(user_id)


@given(tenants, tenants, ids)
def test_a_tenant_cannot_name_an_id_of_another(acme, beta, user_id):
    if acme == beta:
        return
    assert owner_of(scope_id(acme, scope_id(beta, user_id))) == acme


@pytest.mark.parametrize("server_id", ["order-42", "Acme:1", "temporal-sys-scheduler:x", ":x", ""])
def test_ids_without_a_tenants_prefix_have_no_owner(server_id):
    assert owner_of(server_id) is None


@pytest.mark.parametrize("user_id", ["x", "order-42", "é" * 450, "a" * 900, "日本"])
def test_printable_ids_are_accepted(user_id):
    assert check_id(user_id) == user_id


@pytest.mark.parametrize(
    "user_id", ["", "a\nb", "\x1b[31m", "a\x00", "\u202eabc", "\ud800", "a" * 901, "é" * 451]
)
def test_unprintable_empty_and_long_ids_are_refused(user_id):
    with pytest.raises(InvalidIdError):
        check_id(user_id)
