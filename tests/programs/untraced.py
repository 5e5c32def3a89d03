"""Runs a workflow without tracing and says what of it is there: `untraced.py ADDRESS QUEUE HOW`."""

import asyncio
import json
import sys
import threading
from typing import Any

from orkestra import (
    LangfuseSettings,
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    create_worker,
    start_workflow,
)
from orkestra.temporal.tracing import TRACE_HEADER
from tests.support.trace_headers import scheduled_headers
from tests.workflows.traced import Flaky


async def main(address: str, queue: str, enabled: bool | None) -> dict[str, Any]:
    keys = {"public_key": "pk", "secret_key": "sk"} if enabled is False else {}
    config = OrkestraConfig(
        temporal=TemporalSettings(address=address),
        langfuse=LangfuseSettings.model_validate({"enabled": enabled, **keys}),
    )
    async with TemporalConnectionManager(config) as manager:
        worker = await create_worker(
            task_queue=queue, workflows_path="tests.workflows.traced", manager=manager
        )
        client = await manager.get_client(tenant="acme")
        async with worker:
            handle = await start_workflow(client, Flaky.run, 1, task_queue=queue)
            result = await handle.result()
        headers = await scheduled_headers(handle)
        return {
            "result": result,
            "modules": [
                name
                for name in sys.modules
                if name.partition(".")[0] in {"langfuse", "opentelemetry"}
                or name.startswith("orkestra.langfuse")
            ],
            "threads": [t.name for t in threading.enumerate() if "orkestra-" in t.name.lower()],
            "header": any(TRACE_HEADER in fields for fields in headers),
        }


if __name__ == "__main__":
    chosen = {"off": False, "unset": None}[sys.argv[3]]
    report = asyncio.run(main(sys.argv[1], sys.argv[2], chosen))
    sys.stdout.write(json.dumps(report) + "\n")
