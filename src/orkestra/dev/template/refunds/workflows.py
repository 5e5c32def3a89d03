"""The workflow of a refund. Temporal restores it from its history after a crash or a deployment."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from refunds.activities import pay
    from refunds.models import Refund, Request

SMALL = 5_000
"""Largest amount in cents that is paid without approval."""


@workflow.defn
class RefundRequest:
    def __init__(self) -> None:
        self._approved: bool | None = None

    @workflow.run
    async def run(self, request: Request) -> Refund:
        if request.cents > SMALL:
            try:
                await workflow.wait_condition(
                    lambda: self._approved is not None, timeout=timedelta(days=7)
                )
            except TimeoutError:
                return Refund(paid=False, note="nobody approved within a week")
            if not self._approved:
                return Refund(paid=False, note="declined")
        note = await workflow.execute_activity(
            pay, request, start_to_close_timeout=timedelta(seconds=30)
        )
        return Refund(paid=True, note=note)

    @workflow.signal
    def decide(self, approved: bool) -> None:
        """Approve or decline the refund."""
        self._approved = approved

    @workflow.query
    def waits(self) -> bool:
        """Return whether the refund waits for a decision."""
        return self._approved is None
