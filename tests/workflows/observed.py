"""Activities that observe with the Langfuse SDK, which is imported only where they run."""

from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

PATIENTLY = timedelta(seconds=45)


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
def observing_in_a_process(question: str) -> str:
    return _observe(question)


@activity.defn
def failing_in_a_process(question: str) -> str:
    _observe(question)
    raise LookupError(question)


@activity.defn
async def instrumented(question: str) -> str:
    """As a library does that knows OpenTelemetry alone."""
    from opentelemetry import trace

    tracer = trace.get_tracer("openinference.instrumentation.openai")
    with tracer.start_as_current_span("chat", attributes={"gen_ai.prompt": question}):
        pass
    with trace.get_tracer("requests").start_as_current_span("GET /"):
        pass
    return question


@activity.defn
async def holding_a_client(public_key: str) -> None:
    """Observes with a client that was made for another project."""
    from langfuse import Langfuse

    langfuse = Langfuse(public_key=public_key, secret_key="ignored")
    with langfuse.start_as_current_observation(name="held", input="mine alone"):
        pass


@activity.defn
async def labelling(victim: str) -> None:
    """Tries to be shown among another tenant's."""
    import json

    from langfuse import get_client, propagate_attributes
    from opentelemetry import trace

    with (
        propagate_attributes(
            user_id=f"{victim}:ada",
            session_id=f"{victim}:s",
            tags=[f"tenant:{victim}", f" TENANT:{victim}", "fine"],
            metadata={"tenant_id": victim},
        ),
        get_client().start_as_current_observation(name="labelled"),
    ):
        span = trace.get_current_span()
        span.set_attribute("langfuse.trace.metadata.tenant_id", json.dumps(victim))
    own = trace.get_current_span()
    own.set_attribute("langfuse.trace.tags", [f"tenant:{victim}"])
    own.set_attribute("user.id", f"{victim}:ada")
    own.set_attribute("session.id", f"{victim}:s")
    own.set_attribute("langfuse.trace.metadata.tenant_id", json.dumps(victim))


@activity.defn
async def updating(text: str) -> None:
    from langfuse import get_client

    get_client().update_current_span(name="renamed", metadata={"note": text})


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
            await workflow.execute_activity(name, argument, start_to_close_timeout=PATIENTLY)
            for name in activities
        ]


WORKFLOWS: list[type] = [Nothing, Observe]
ACTIVITIES: list[Any] = [
    failing_inside,
    holding_a_client,
    instrumented,
    labelling,
    observing,
    observing_in_a_thread,
    starting_another,
    updating,
]
IN_PROCESSES: list[Any] = [failing_in_a_process, observing_in_a_process]
