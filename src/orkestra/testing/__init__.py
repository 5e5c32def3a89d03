"""Test kit: a real server, tenants, workers and captured traces for tests of applications.

pytest finds the fixtures by itself: `environment`, `time_skipping`, `tenant`, `tenant_client` and
`histories`. Without pytest, begin with `OrkestraEnvironment`.
"""

from orkestra.otlp import ReceivedSpan, TraceTree, traces_of
from orkestra.testing.environment import OrkestraEnvironment, TenantActivityEnvironment
from orkestra.testing.isolation import assert_isolated
from orkestra.testing.receiver import Behaviour, LangfuseReceiver
from orkestra.testing.replay import Histories, HistoryMode, assert_replays
from orkestra.testing.traces import CapturedSpan, CapturedTrace

__all__ = [
    "Behaviour",
    "CapturedSpan",
    "CapturedTrace",
    "Histories",
    "HistoryMode",
    "LangfuseReceiver",
    "OrkestraEnvironment",
    "ReceivedSpan",
    "TenantActivityEnvironment",
    "TraceTree",
    "assert_isolated",
    "assert_replays",
    "traces_of",
]
