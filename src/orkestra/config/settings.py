"""The settings themselves: frozen values, each default written once."""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import Field

from orkestra.config.langfuse import LangfuseProject
from orkestra.config.section import Section

BuiltInQuery = Literal["__stack_trace", "__enhanced_stack_trace", "__temporal_workflow_metadata"]
"""A query that the SDK answers itself."""


class TenancySettings(Section):
    """How the tenant is carried and enforced.

    Attributes:
        mode: `required` refuses whatever has no tenant; `optional` stamps and checks where a
            tenant is known and lets the rest through; `off` leaves tenancy out.
        header: Name of the Temporal header that carries the tenant.
        search_attribute: Keyword search attribute that shows the tenant to people and queries.
        memo: Also write the tenant into the memo, under the header's name.
        fairness: Use the tenant as the fairness key of workflow and activity tasks.
        workflow_ids: `scoped` puts the tenant before every ID on the server, `acme:order-42`;
            `global` leaves IDs as they are given and looks up whose they are instead, which costs
            one or two more requests for each call that finds a workflow by its ID.
        built_in_queries: The SDK's own queries that are answered without a tenant, to the UI for
            instance; leave one out to have it checked as any other.
        metrics_tenant_label: Give Orkestra's own counters the label `tenant`, for tenants that the
            directory knows, 1,000 at most; others are `unknown`.
    """

    mode: Literal["required", "optional", "off"] = "required"
    header: str = Field(default="tenantId", min_length=1)
    search_attribute: str = Field(default="tenantId", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    memo: bool = False
    fairness: bool = True
    workflow_ids: Literal["scoped", "global"] = "scoped"
    built_in_queries: tuple[BuiltInQuery, ...] = get_args(BuiltInQuery)
    metrics_tenant_label: bool = False


class TenantSettings(Section):
    """One tenant of the directory, `[tenants.<id>]` in `orkestra.toml`.

    Attributes:
        status: A `suspended` tenant starts nothing; what runs goes on.
        namespace: A namespace of its own; None means `temporal.namespace`.
        task_queues: Queues of its own, by the name that the code uses: `{orders = "acme-orders"}`
            sends what is started on `orders` to `acme-orders`.
        fairness_weight: Its share of a queue beside the others', 0.001 to 1000; None means 1.
        most_urgent_priority: The smallest priority key that it may use, 1 to 5; 3 is normal.
        encryption_key: Reference of the key that encrypts its payloads.
        langfuse: A Langfuse project of its own; None means the shared one, `langfuse`.
    """

    status: Literal["active", "suspended"] = "active"
    namespace: str | None = Field(default=None, min_length=1)
    task_queues: Mapping[str, str] = Field(default_factory=dict)
    fairness_weight: float | None = Field(default=None, ge=0.001, le=1000)
    most_urgent_priority: int = Field(default=3, ge=1, le=5)
    encryption_key: str | None = None
    langfuse: LangfuseProject | None = None
