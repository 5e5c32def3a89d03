"""A chain without end that began before there were tenants."""

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair

from orkestra import current_tenant

TENANT = SearchAttributeKey.for_keyword("tenantId")


@workflow.defn
class Account:
    def __init__(self) -> None:
        self.next: str | None = None

    @workflow.run
    async def run(self) -> str | None:
        await workflow.wait_condition(lambda: self.next is not None)
        if self.next:
            shown = workflow.info().typed_search_attributes.updated(
                SearchAttributePair(TENANT, self.next)
            )
            workflow.continue_as_new(memo={"tenantId": self.next}, search_attributes=shown)
        return current_tenant()

    @workflow.signal
    def go_on(self, tenant: str) -> None:
        self.next = tenant

    @workflow.query
    def tenant(self) -> str | None:
        return current_tenant()
