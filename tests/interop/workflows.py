"""The Python side of the tests with workers of other languages."""

from datetime import timedelta

from temporalio import activity, workflow

from orkestra import current_tenant

SECONDS = timedelta(seconds=60)


@activity.defn
async def seen_by_python() -> str | None:
    return current_tenant()


@workflow.defn
class SeenByPython:
    """Says which tenant is seen here, in an activity here, and in one of the TypeScript worker."""

    @workflow.run
    async def run(self, typescript_queue: str) -> dict[str, str | None]:
        return {
            "workflow": current_tenant(),
            "activity": await workflow.execute_activity(
                seen_by_python, start_to_close_timeout=SECONDS
            ),
            "typescript": await workflow.execute_activity(
                "seen_by_typescript", task_queue=typescript_queue, start_to_close_timeout=SECONDS
            ),
        }
