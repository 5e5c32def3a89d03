"""What became of the attempt before this one.

An attempt whose worker was lost, or whose heartbeat stayed away, sends no span that says so. Only
the server knows, and an attempt is not told: it has to ask.
"""

import asyncio
import logging
from typing import Any, Final, cast

from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.worker import ActivityInboundInterceptor

_logger: Final = logging.getLogger(__name__)
_PATIENCE_SECONDS: Final = 0.25

_TIMEOUTS: Final = {
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "timed out: no heartbeat",
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "timed out: start to close",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "timed out: schedule to start",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "timed out: schedule to close",
}


class Fate:
    """How the attempt before this one ended, as soon as the server has said it."""

    def __init__(self, inbound: ActivityInboundInterceptor) -> None:
        """Ask, while the attempt runs, if there was one before.

        Args:
            inbound: An interceptor of the attempt.
        """
        self._asking: asyncio.Task[str | None] | None = None
        info = activity.info()
        if info.attempt == 1 or info.is_local or info.workflow_id is None:
            return
        if (client := _client_behind(inbound)) is not None:
            self._asking = asyncio.create_task(_ask(client, info))

    async def known(self) -> dict[str, str]:
        """Metadata that says it; waits a quarter of a second at most."""
        asking = self._asking
        if asking is None:
            return {}
        try:
            await asyncio.wait({asking}, timeout=_PATIENCE_SECONDS)
        except asyncio.CancelledError:
            _logger.debug("Cancelled while asking what became of the attempt before")
        if not asking.done():
            asking.cancel()
            return {"previous_attempt": "unknown"}
        return {"previous_attempt": asking.result() or "unknown"}


async def _ask(client: Client, info: activity.Info) -> str | None:
    ids = {"workflow_id": info.workflow_id or "", "run_id": info.workflow_run_id or ""}
    execution = WorkflowExecution(**ids)
    request = DescribeWorkflowExecutionRequest(namespace=info.namespace, execution=execution)
    try:
        described = await client.workflow_service.describe_workflow_execution(request)
    except Exception as error:  # noqa: BLE001 - the attempt does not depend on it
        _logger.debug("What became of the attempt before is not known: %r", error)
        return None
    pending = (p for p in described.pending_activities if p.activity_id == info.activity_id)
    found = next(pending, None)
    return (
        _said(found.last_failure) if found is not None and found.HasField("last_failure") else None
    )


def _said(failure: Failure) -> str:
    if failure.HasField("timeout_failure_info"):
        return _TIMEOUTS.get(failure.timeout_failure_info.timeout_type, "timed out")
    if failure.HasField("canceled_failure_info"):
        return "cancelled"
    return "failed"


def _client_behind(inbound: ActivityInboundInterceptor) -> Client | None:
    """The worker's client; the SDK gives it to no interceptor, and to async activities only."""
    innermost: Any = inbound
    while (next_one := getattr(innermost, "next", None)) is not None:
        innermost = next_one
    worker = getattr(innermost, "_worker", None)
    return cast("Client | None", getattr(worker, "_client", None))
