"""A hostile tenant with a guarded client, and another tenant's open workflow."""

from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.api.common.v1 import Header, SearchAttributes, WorkflowExecution
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import (
    Client,
    WorkflowHandle,
)

from orkestra import (
    ForbiddenOperationError,
)
from tests.support.guarded_clients import GuardDesk
from tests.support.requests import payload


@dataclass
class Attack:
    """acme's client, with interceptors and without, and beta's open workflow."""

    desk: GuardDesk
    acme: Client
    bare: Client
    beta: Client
    target: WorkflowHandle[Any, Any]

    @property
    def service(self) -> Any:
        return self.acme.workflow_service

    def of_target(self) -> WorkflowExecution:
        return WorkflowExecution(workflow_id=self.target.id)

    def header(self, tenant: str | None = None) -> Header:
        return Header(fields={"tenantId": payload(tenant or self.desk.acme)})

    def start(self, **fields: Any) -> api.StartWorkflowExecutionRequest:
        """A raw start as the interceptors would have made it, with other fields in place."""
        acme = self.desk.acme
        made = api.StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=f"{acme}:raw",
            request_id="r",
            header=self.header(),
            search_attributes=SearchAttributes(
                indexed_fields={"tenantId": payload(acme, type=b"Keyword")}
            ),
            task_queue=TaskQueue(name=self.desk.queue),
        )
        made.workflow_type.name = "Mailbox"
        made.priority.fairness_key = acme
        replaced = api.StartWorkflowExecutionRequest(**fields)
        for name in fields:
            made.ClearField(name)
        made.MergeFrom(replaced)
        return made


async def refused(call: Any, *, match: str | None = None) -> None:
    with pytest.raises(ForbiddenOperationError, match=match):
        await call
