"""Runs of workflow code in a sandbox, without a server."""

import asyncio
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any, Final

from temporalio import workflow
from temporalio.api.common.v1 import Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import (
    InitializeWorkflow,
    WorkflowActivation,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import DataConverter
from temporalio.worker import WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox._runner import _fake_info

from orkestra.config import SandboxSettings
from orkestra.temporal.sandbox import CachingSandboxRunner, sandbox_runner

FLOW: Final = """
from datetime import timedelta
from temporalio import workflow
{imports}
@workflow.defn
class Flow:
    @workflow.run
    async def run(self):
{body}
"""


START: Final = WorkflowActivation(
    run_id="run",
    jobs=[WorkflowActivationJob(initialize_workflow=InitializeWorkflow(workflow_type="Flow"))],
)


class Desk:
    """Writes packages of workflow code, and loads workflows of them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, modules: dict[str, str]) -> None:
        for name, text in modules.items():
            path = self.root / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    def flow(self, name: str, body: str, imports: str = "") -> type:
        self.write({name: FLOW.format(imports=imports, body=indent(body, " " * 8))})
        return importlib.import_module(name.replace("/", ".")).Flow


def runner_of(flow: type, **options: Any) -> SandboxedWorkflowRunner:
    runner = sandbox_runner(SandboxedWorkflowRunner(**options), [flow], SandboxSettings())
    assert type(runner) is CachingSandboxRunner
    return runner


def instance_of(
    flow: type, runner: SandboxedWorkflowRunner, **extern_functions: Callable[..., Any]
) -> Any:
    return runner.create_instance(
        WorkflowInstanceDetails(
            payload_converter_factory=DataConverter.default._new_payload_converter,
            failure_converter_class=DataConverter.default.failure_converter_class,
            interceptor_classes=[],
            defn=workflow._Definition.must_from_class(flow),
            info=_fake_info,
            randomness_seed=1,
            extern_functions=extern_functions,
            disable_eager_activity_execution=False,
            worker_level_failure_exception_types=[],
            patch_activation_callback=None,
            last_completion_result=Payloads(),
            last_failure=Failure(),
        )
    )


async def outcome(flow: type, runner: SandboxedWorkflowRunner) -> tuple[Any, list[str]]:
    """What the first task of a run leads to, a result or a failure, and what it warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            instance = instance_of(flow, runner)
        except (AttributeError, ImportError) as failed:
            return repr(failed), []
        done = await asyncio.to_thread(instance.activate, START)
    return result_of(done), [str(warning.message) for warning in told]


def result_of(done: WorkflowActivationCompletion) -> Any:
    if done.HasField("failed"):
        return str(done.failed.failure)
    [command] = done.successful.commands
    if command.HasField("fail_workflow_execution"):
        return str(command.fail_workflow_execution.failure)
    result = command.complete_workflow_execution.result
    return DataConverter.default.payload_converter.from_payload(result)
