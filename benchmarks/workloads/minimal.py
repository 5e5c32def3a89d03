"""One workflow in a module that imports next to nothing."""

from datetime import timedelta

from temporalio import workflow


@workflow.defn
class OneActivity:
    @workflow.run
    async def run(self) -> str:
        greeting: str = await workflow.execute_activity(
            "greet", "you", start_to_close_timeout=timedelta(seconds=60), result_type=str
        )
        return greeting
