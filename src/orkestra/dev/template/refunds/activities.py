"""Activities: calls to other systems, which Temporal retries when they fail."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from orkestra import current_tenant
from refunds.models import Request


@activity.defn
async def pay(request: Request) -> str:
    """Pay the money back. Call your payment provider here."""
    if request.cents <= 0:
        raise ApplicationError(f"{request.cents} cents cannot be refunded", non_retryable=True)
    activity.logger.info("paying %d cents for %s", request.cents, request.order)
    return f"{current_tenant()} paid {request.cents / 100:.2f} for {request.order}"
