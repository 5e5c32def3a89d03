"""Fails when a release of the SDK changes a private part that `orkestra.temporal._sdk` uses."""

import ast
import inspect
import sys
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.bridge.client import Client as CoreClient
from temporalio.bridge.worker import Worker as CoreWorker
from temporalio.client import Client
from temporalio.nexus import _operation_context
from temporalio.service import ServiceClient
from temporalio.worker import Worker, _activity, _worker, _workflow_instance
from temporalio.worker.workflow_sandbox._importer import _thread_local_sys_modules
from temporalio.workflow import _event_groups

import orkestra
from orkestra.temporal._sdk import (
    ACTIVITY_DEFINITION,
    METRIC_METER_FUNCTION,
    WORKFLOW_DEFINITION,
    BridgeServiceClient,
    CallOptions,
    caching_instance_class,
    nexus_context,
    rpc_call_of,
    signal_event_id,
    without_sdk_failure_log,
)

PACKAGE = Path(orkestra.__file__).parent
ONLY_HERE = Path("temporal", "_sdk.py")


@workflow.defn
class Empty:
    @workflow.run
    async def run(self) -> None:
        """Do nothing."""


@activity.defn
def nothing() -> None:
    """Do nothing."""


def private_imports(file: Path) -> list[str]:
    """The names under `temporalio` that a file imports and that begin with an underscore."""
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]
    return [
        name
        for name in names
        if name.startswith("temporalio.") and ("._" in name or ".bridge." in name)
    ]


def test_only_one_module_imports_private_parts_of_the_sdk():
    found = {
        file.relative_to(PACKAGE): imports
        for file in PACKAGE.rglob("*.py")
        if (imports := private_imports(file))
    }
    assert set(found) == {ONLY_HERE}, found


def test_service_clients_send_every_rpc_through_one_method():
    [_, *parameters] = inspect.signature(ServiceClient._rpc_call).parameters
    assert parameters == ["rpc", "req", "resp_type", *CallOptions.__annotations__]
    assert inspect.iscoroutinefunction(BridgeServiceClient._rpc_call)


async def test_a_service_client_keeps_the_core_client_that_holds_the_socket():
    client = await Client.connect("127.0.0.1:1", lazy=True)
    service = client.service_client.worker_service_client
    assert service._bridge_client is None  # lazy, and not connected yet
    assert hasattr(service, "_runtime")
    assert rpc_call_of(service) == service._rpc_call
    assert "_ref" in CoreClient.__init__.__code__.co_names
    assert callable(CoreClient.update_metadata)


def test_a_worker_has_the_parts_that_end_it_before_it_runs():
    assert {
        "_started",
        "_shutdown_complete_event",
        "_bridge_worker",
        "_workflow_worker",
        "_activity_worker",
        "_nexus_worker",
    } <= set(Worker.__init__.__code__.co_names) | set(Worker._init_from_config.__code__.co_names)
    assert "_ref" in CoreWorker.__init__.__code__.co_names
    assert callable(CoreWorker.initiate_shutdown)
    assert inspect.iscoroutinefunction(CoreWorker.finalize_shutdown)
    for worker in (_worker._WorkflowWorker, _worker._ActivityWorker, _worker._NexusWorker):
        assert inspect.iscoroutinefunction(worker.drain_poll_queue)


def test_the_log_line_of_a_failed_worker_is_the_one_that_is_dropped(caplog):
    [message] = [
        each for each in Worker._run.__code__.co_consts if str(each).startswith("Worker failed")
    ]
    with without_sdk_failure_log():
        _worker.logger.error(message)
        _worker.logger.error("another")
    _worker.logger.error(message)
    assert caplog.messages == ["another", message]


def test_tasks_keep_their_client_where_it_is_replaced():
    assert "client" in inspect.signature(activity._Context).parameters
    assert "_client" in _activity._ActivityWorker.__init__.__code__.co_names
    assert "_worker" in _activity._ActivityInboundImpl.__init__.__code__.co_names
    fields = _operation_context._TemporalOperationCtx.__dataclass_fields__
    assert "client" in fields
    with pytest.raises(RuntimeError):
        nexus_context()


def test_definitions_are_found_by_their_attributes():
    assert vars(Empty)[WORKFLOW_DEFINITION].name == "Empty"
    assert getattr(nothing, ACTIVITY_DEFINITION).name == "nothing"


def test_workflow_code_gets_its_meter_from_the_function_of_that_name():
    names = _workflow_instance._WorkflowExternFunctions.__annotations__
    assert any(name.endswith(METRIC_METER_FUNCTION) for name in names)  # with the class before it


def test_the_sdk_knows_the_event_of_the_signal_that_it_handles():
    """The ids of signals can be computed from a history for this reason; nothing public has it."""
    group = _event_groups._inbound_event_group(7)
    active = group._applied_over(_event_groups._active_event_groups.get())
    token = _event_groups._active_event_groups.set(active)
    try:
        assert signal_event_id() == 7
    finally:
        _event_groups._active_event_groups.reset(token)
    assert signal_event_id() is None


def test_the_sandbox_is_made_as_the_cheaper_one_assumes():
    assert caching_instance_class() is not None
    assert _thread_local_sys_modules.orig["sys"] is sys
