"""Activities that observe with the Langfuse SDK, which is imported only where they run."""

from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

BRIEFLY = timedelta(seconds=10)


def _observe(question: str) -> str:
    from langfuse import get_client, observe

    @observe(name="think")
    def think(about: str) -> str:
        client = get_client()
        with client.start_as_current_observation(
            name="generate", as_type="generation", model="tiny", input=about
        ) as generation:
            generation.update(output="42", usage_details={"input": 3, "output": 1})
        return "42"

    return think(question)


@activity.defn
async def observing(question: str) -> str:
    return _observe(question)


@activity.defn
def observing_in_a_thread(question: str) -> str:
    return _observe(question)


@activity.defn
async def failing_inside(secret: str) -> None:
    from langfuse import observe

    @observe(name=f"try {secret}")
    def fail(argument: str) -> None:
        raise ValueError(f"no {argument}")

    fail(secret)


@activity.defn
async def starting_another(other_id: str) -> None:
    await activity.client().execute_workflow(
        Nothing.run, id=other_id, task_queue=activity.info().task_queue
    )


@workflow.defn
class Nothing:
    @workflow.run
    async def run(self) -> None:
        return


@workflow.defn
class Observe:
    @workflow.run
    async def run(self, activities: list[str], argument: str) -> list[Any]:
        return [
            await workflow.execute_activity(name, argument, start_to_close_timeout=BRIEFLY)
            for name in activities
        ]


WORKFLOWS: list[type] = [Nothing, Observe]
ACTIVITIES: list[Any] = [failing_inside, observing, observing_in_a_thread, starting_another]
