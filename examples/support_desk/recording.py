"""Recording of model calls in Langfuse, as generations below the span of the activity."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from support_desk.models import Draft, Question

if TYPE_CHECKING:
    from langfuse import LangfuseGeneration


@contextmanager
def generation(model: str, question: Question) -> Generator[Callable[[Draft], None]]:
    """Record the model call of the `with` block, which passes in the answer.

    Where tracing is off, or this trace is not sampled, nothing is recorded.
    """
    if not _is_traced():
        yield lambda _: None
        return
    from langfuse import get_client  # noqa: PLC0415 - a slow import, only for tracing

    with get_client().start_as_current_observation(
        as_type="generation", name="draft", model=model, input=asdict(question)
    ) as record:
        yield lambda draft: _finish(record, question, draft)


def _finish(record: "LangfuseGeneration", question: Question, draft: Draft) -> None:
    words = sum(len(message.split()) for message in question.messages)
    record.update(
        output=asdict(draft),
        usage_details={"input": words, "output": len(draft.text.split())},
        metadata={"confidence": draft.confidence},
    )


def _is_traced() -> bool:
    try:
        from opentelemetry.trace import get_current_span  # noqa: PLC0415 - comes with Langfuse
    except ImportError:
        return False
    return get_current_span().is_recording()
