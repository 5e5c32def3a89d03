"""A workflow that calls a Nexus operation which another workflow backs."""

from datetime import timedelta

import nexusrpc
from temporalio import workflow

SECONDS = timedelta(seconds=60)


@nexusrpc.service
class Desk:
    backed: nexusrpc.Operation[str, str]
    meddling: nexusrpc.Operation[str, str]


@workflow.defn
class Backing:
    @workflow.run
    async def run(self, text: str) -> str:
        return f"{text} by {workflow.info().workflow_id}"


@workflow.defn
class Caller:
    @workflow.run
    async def run(self, endpoint: str, operation: str) -> str:
        client = workflow.create_nexus_client(service=Desk, endpoint=endpoint)
        return await client.execute_operation(
            operation, "done", output_type=str, schedule_to_close_timeout=SECONDS
        )
