"""Whose a run is and where it stands in its trace, as its worker read it."""

from dataclasses import dataclass
from typing import Final

from orkestra.config import TenancySettings
from orkestra.errors import TENANT_MISMATCH, TENANT_REQUIRED, TenantMismatchError
from orkestra.temporal.histories.reading import RunHistory, time_of
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.temporal.interceptors.tracing.attributes import complete
from orkestra.temporal.interceptors.tracing.header import Headers, read_header
from orkestra.tracing import RunFacts

_REFUSALS: Final = frozenset({TENANT_MISMATCH, TENANT_REQUIRED})


@dataclass(frozen=True)
class TenantReader:
    """Reads tenants as workers do.

    Attributes:
        settings: The names under which tenants are carried.
    """

    settings: TenancySettings

    def of_run(self, run: RunHistory) -> str | None:
        """The tenant of a run: its header's, else its memo's.

        Nobody's where these cannot be read or the ID says otherwise, or the worker refused it.
        """
        if self.settings.mode == "off" or is_refused(run):
            return None
        policy, started = TenantPolicy(self.settings), run.started
        try:
            tenant = policy.read_header(started.header.fields) or policy.read_memo(
                started.memo.fields
            )
            if tenant is not None:
                policy.check_owner(tenant, run.workflow_id)
        except TenantMismatchError:
            return None
        return tenant

    def is_dropped(self, headers: Headers, tenant: str | None) -> bool:
        """Whether the worker dropped a signal of these headers, as from elsewhere."""
        if self.settings.mode == "off":
            return False
        try:
            sender = TenantPolicy(self.settings).read_header(headers)
        except TenantMismatchError:
            return True
        if sender is None and tenant is not None:
            return self.settings.mode == "required"
        return sender != tenant


def is_refused(run: RunHistory) -> bool:
    """Whether a worker refused the run for its tenant; then nothing of its values is shown."""
    if run.end is None:
        return False
    failure = run.end.workflow_execution_failed_event_attributes.failure
    return failure.application_failure_info.type in _REFUSALS


def facts_of(run: RunHistory, tenants: TenantReader, *, ui_url: str | None) -> RunFacts:
    """What all spans of a run share.

    Args:
        run: The run.
        tenants: Reads its tenant.
        ui_url: Where Temporal's web interface is, for the link.
    """
    started = run.started
    tenant = tenants.of_run(run)
    carried = read_header(started.header.fields)
    root_id = started.root_workflow_execution.workflow_id or run.workflow_id
    return RunFacts(
        namespace=run.namespace,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        first_run_id=run.first_run_id,
        workflow_type=started.workflow_type.name,
        task_queue=started.task_queue.name,
        start_ns=time_of(run.events[0].event_time),
        attempt=max(started.attempt, 1),
        tenant=tenant,
        carried=carried,
        attributes=complete(carried.attributes, tenant=tenant, workflow_id=root_id),
        ui_url=ui_url,
    )
