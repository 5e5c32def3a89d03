"""Receiver of spans in its own process, so that its work is not measured."""

import json
import sys
from collections import Counter

from orkestra.testing import LangfuseReceiver, ReceivedSpan


def _named(span: ReceivedSpan) -> tuple[object, ...]:
    """Return the identity of a span: its ID, or its content if IDs are random."""
    ids = [str(value) for key, value in sorted(span.attributes.items()) if "ID" in key]
    return (span.name, *(ids or [span.trace_id]))


def _summary(spans: list[ReceivedSpan]) -> dict[str, int]:
    ends = Counter(_named(span) for span in spans if "Racing" in span.name)
    return {
        "spans": len(spans),
        "traces": len({span.trace_id for span in spans}),
        "roots": sum(span.parent_id is None for span in spans),
        "same id": len(spans) - len({span.span_id for span in spans}),
        "same workflow and name": sum(count - 1 for count in ends.values()),
    }


if __name__ == "__main__":
    with LangfuseReceiver() as receiver:
        environment = {
            "LANGFUSE_BASE_URL": receiver.url,
            "LANGFUSE_PUBLIC_KEY": receiver.public_key,
            "LANGFUSE_SECRET_KEY": receiver.secret_key,
        }
        print(json.dumps(environment), flush=True)
        for line in sys.stdin:
            spans = receiver.spans
            if json.loads(line)[0] == "clear":
                receiver.clear()
            print(json.dumps(_summary(spans)), flush=True)
