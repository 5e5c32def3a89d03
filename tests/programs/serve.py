"""A worker as a user would run it: `serve.py ADDRESS QUEUE NAMESPACE MODULE WORKER-SETTINGS`."""

import asyncio
import json
import logging
import os
import sys
from datetime import timedelta

from orkestra import (
    LangfuseSettings,
    OrkestraConfig,
    TemporalSettings,
    TenancySettings,
    TenantSettings,
    WorkerSettings,
    create_worker,
    run_worker,
)


async def main(address: str, queue: str, namespace: str, module: str, settings: str) -> int:
    logging.basicConfig(level=logging.INFO)
    defaults = {
        "graceful_shutdown_timeout": timedelta(seconds=2),
        "cancellation_timeout": timedelta(seconds=1),
    }
    langfuse = json.loads(os.environ.get("SERVE_LANGFUSE", "{}"))
    tenants = json.loads(os.environ.get("SERVE_TENANTS", "{}"))
    config = OrkestraConfig(
        tenancy=TenancySettings(metrics_tenant_label=bool(tenants)),
        tenants={name: TenantSettings.model_validate(it) for name, it in tenants.items()},
        temporal=TemporalSettings(address=address, namespace=namespace),
        worker=WorkerSettings.model_validate(defaults | json.loads(settings)),
        langfuse=LangfuseSettings.model_validate(langfuse),
    )
    making = create_worker(config, task_queue=queue, workflows_path=module)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    return await run_worker(making, config=config)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:6])))
