"""Global IDs: every RPC is decided on, and what is remembered has a bound."""

from orkestra.temporal.guard.ownership import HANDLERS, Recent
from orkestra.temporal.guard.rules import Allowed
from orkestra.temporal.guard.table import RPCS


def test_every_rpc_that_a_tenant_may_call_is_checked_or_names_nothing():
    allowed = {rpc for rpc, row in RPCS.items() if isinstance(row, Allowed)}
    assert set(HANDLERS) == allowed


def test_a_hundred_thousand_made_up_ids_keep_memory_flat():
    recent = Recent[int, str](limit=100)
    recent.put(-1, "kept")
    for number in range(100_000):
        recent.put(number, "made up")
        assert recent.get(-1) == "kept"
    assert len(recent) == 100
    assert recent.get(5) is None
