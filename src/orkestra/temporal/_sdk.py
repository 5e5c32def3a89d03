"""Everything of the Temporal SDK that Orkestra uses and that is not the SDK's public API.

A release of the SDK may change any of it without notice, so it has one place, and
`tests/unit/test_sdk_drift.py` pins each part. The rest of Orkestra imports it from here; the two
exceptions are method overrides, which must have the SDK's own names: `_rpc_call` and
`_bridge_client` of service clients. What the SDK says in the text of a failed connection is in
`orkestra.temporal.connection.connect`, with a test of its own.

Workflow-side code imports this module inside the sandbox, so it does nothing on import. It does not
import `temporalio.worker`, which would add half as much again to the start of a program that only
uses a client.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, lru_cache
from operator import attrgetter
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict, TypeVar, Unpack, cast

import temporalio.workflow
from google.protobuf.message import Message
from temporalio import activity
from temporalio.bridge.client import Client as CoreClient
from temporalio.bridge.proto import workflow_commands
from temporalio.bridge.proto.common import NamespacedWorkflowExecution
from temporalio.bridge.proto.health.v1 import HealthCheckRequest
from temporalio.bridge.proto.nexus import NexusOperationResult
from temporalio.bridge.proto.workflow_activation import (
    InitializeWorkflow,
    RemoveFromCache,
    WorkflowActivation,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.nexus._link_conversion import nexus_link_to_temporal_link
from temporalio.nexus._operation_context import _temporal_context as nexus_context  # pyright: ignore[reportPrivateUsage]
from temporalio.service import ServiceClient
from temporalio.service import _BridgeServiceClient as BridgeServiceClient  # pyright: ignore[reportPrivateUsage]

if TYPE_CHECKING:
    from temporalio.worker import Worker

# The core's messages: a workflow task and what came of it. Interceptors see neither the server's
# answer to a task nor all commands (cancelling an external workflow, upserting a memo).
__all__ = [
    "BridgeServiceClient",
    "CoreClient",
    "HealthCheckRequest",
    "InitializeWorkflow",
    "NamespacedWorkflowExecution",
    "NexusOperationResult",
    "RemoveFromCache",
    "WorkflowActivation",
    "WorkflowActivationCompletion",
    "WorkflowActivationJob",
    "nexus_context",
    "nexus_link_to_temporal_link",
    "workflow_commands",
]

_Response = TypeVar("_Response", bound=Message)


# --- Service clients -----------------------------------------------------------------------------


class CallOptions(TypedDict):
    """The SDK's options of an RPC, besides its name, the request and the type of the response."""

    service: str  # for instance `workflow`
    retry: bool
    metadata: Mapping[str, str | bytes]
    timeout: timedelta | None


class RpcCall(Protocol):
    """Method through which a service client sends every RPC."""

    async def __call__(
        self, rpc: str, req: Message, resp_type: type[_Response], **options: Unpack[CallOptions]
    ) -> _Response:
        """Send the request and return the response."""
        ...


# Not a function, because every RPC passes here: this costs no Python frame.
rpc_call_of: Final = cast("Callable[[ServiceClient], RpcCall]", attrgetter("_rpc_call"))


class WorkerServiceClient(BridgeServiceClient):
    """Service client in the form that the SDK's `Worker` asks for.

    `Worker` takes the core's client from it and polls with that. All RPCs on this object,
    `workflow_service` included, go to the service client that it was made from. It keeps no
    reference to the core's client, which would keep the socket open (T32).
    """

    def __init__(
        self, service: ServiceClient, sdk_client: Callable[[], BridgeServiceClient]
    ) -> None:
        # The parent's own constructor would prepare a connection.
        ServiceClient.__init__(self, service.config)
        self._service = service
        self._sdk_client = sdk_client
        self._runtime = sdk_client()._runtime  # noqa: SLF001 - Worker reads it

    @property
    def _bridge_client(self) -> CoreClient | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] - an attribute would keep the socket
        return self._sdk_client()._bridge_client  # noqa: SLF001 - Worker reads it

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        """See base class."""
        self._service.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        """See base class."""
        self._service.update_api_key(api_key)

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class."""
        return await rpc_call_of(self._service)(rpc, req, resp_type, **options)


def release_core_client(service: ServiceClient) -> None:
    """Drop the core's client, whose last reference keeps the socket open.

    The SDK has no `close()`. Its own client is part of a cycle of references, and plugins may hold
    it, so the core's client is taken out of it.
    """
    service.worker_service_client._bridge_client = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


_OWN_REFERENCES: Final = 2  # the client's attribute, and the argument of sys.getrefcount()


def is_core_client_released(service: ServiceClient) -> bool:
    """Check that the core's threads hold no reference to a client that has just connected.

    They release theirs with the next call into the core, so this makes one.
    """
    core = service.worker_service_client._bridge_client  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if core is None:
        return True
    core.update_metadata(service.config.rpc_metadata)
    return sys.getrefcount(core._ref) <= _OWN_REFERENCES  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]


# --- Workers -------------------------------------------------------------------------------------


_WORKER_LOGGER: Final = "temporalio.worker._worker"
_WORKER_FAILED: Final = "Worker failed, shutting down"


@contextmanager
def without_sdk_failure_log() -> Generator[None]:
    """Drop the SDK's log line of a worker's failure, which `Worker.run()` also raises."""
    logger = logging.getLogger(_WORKER_LOGGER)

    def is_other(record: logging.LogRecord) -> bool:
        return record.msg != _WORKER_FAILED

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


async def end_unstarted_worker(worker: "Worker", *, timeout: timedelta) -> None:
    """End the core's part of a worker that never polled, which holds a socket.

    The SDK ends it only after a run. A worker that has started is left alone. Raises TimeoutError,
    or the core's RuntimeError or ValueError.
    """
    # `is_shutdown` is also true of a worker that has failed to start.
    if worker._started:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return
    worker._shutdown_complete_event.set()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - shutdown() would wait for ever (T34)
    core = worker._bridge_worker  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if core._ref is None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType] - see discard_core_worker()
        return
    core.initiate_shutdown()
    pollers = (
        worker._workflow_worker,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        worker._activity_worker,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        worker._nexus_worker,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    )
    async with asyncio.timeout(timeout.total_seconds()):
        await asyncio.gather(*(each.drain_poll_queue() for each in pollers if each is not None))
        await core.finalize_shutdown()


def discard_core_worker(worker: "Worker") -> None:
    """Unregister a failed worker from the core, which accepts no second one for the same queue.

    The SDK never unregisters one that has not started to poll, as long as it is referenced.
    """
    core = worker._bridge_worker  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if core._ref is not None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        core.initiate_shutdown()
        core._ref = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


# --- Tasks ---------------------------------------------------------------------------------------

WORKFLOW_DEFINITION: Final = "__temporal_workflow_definition"
ACTIVITY_DEFINITION: Final = "__temporal_activity_definition"
"""Attributes that `@workflow.defn` and `@activity.defn` set; nothing public lists definitions."""

METRIC_METER_FUNCTION: Final = "__temporal_get_metric_meter"
"""Name of the function through which workflow code gets its meter, of those a sandbox may call."""

# The activity's context, where the SDK keeps the client that `activity.client()` returns.
activity_context: Final = activity._Context.current  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


_WORKFLOW: Final[Any] = temporalio.workflow


def signal_event_id() -> int | None:
    """Find the ID of the `WorkflowExecutionSignaled` event that the running code handles.

    Interceptors get a signal's name and arguments, not its event. The SDK keeps the event's ID in a
    context variable, for the markers that it puts on what the handler does.

    Returns:
        The ID; None where the SDK does not say, and the caller counts the signals instead.
    """
    try:
        markers = _WORKFLOW._event_groups._capture_event_group_markers(None)  # noqa: SLF001
        found = next((m.inbound_event.inbound_event_id for m in markers), 0)
    except Exception:  # noqa: BLE001 - no span is worth a failed task
        return None
    return found or None


# --- Sandbox -------------------------------------------------------------------------------------

_IN_SANDBOX: Final = "__temporal_in_sandbox"
"""Global of the sandbox's code that holds the workflow instance."""

_SANDBOX_METHODS: Final = {
    "__init__": ("self instance_details runner_class restrictions", "globals_and_locals"),
    "_create_instance": ("self", f" {_IN_SANDBOX} = InSandbox("),
    "_run_code": ("self code", "globals_and_locals", "exec"),
    "get_serialization_context": (
        "self command_info",
        f" {_IN_SANDBOX}.get_serialization_context(__temporal_command_info)\n",
    ),
    "get_external_store_context": (
        "self command_info",
        f" {_IN_SANDBOX}.get_external_store_context(__temporal_command_info)\n",
    ),
}
"""Methods that the class below builds upon: parameters, then names or lines of their code."""


@cache
def caching_instance_class() -> Any:
    """Make the class of sandbox instances that compile the SDK's lines of code once.

    The SDK compiles a few lines of its own for each step of a run, and enters the sandbox several
    times for each payload only to find its serialization context. Together that was a fifth of what
    a worker does for a workflow of one activity
    (`make bench OPTIONS="--no-cpu --instructions"`).

    Returns:
        The class; None where `is_known_sandbox()` fails, and the SDK's own must be used.
    """
    from temporalio.worker.workflow_sandbox import _runner  # noqa: PLC0415 # pyright: ignore[reportPrivateUsage] - see above

    sdk_class: Any = getattr(_runner, "_Instance", object)
    if not is_known_sandbox(sdk_class):
        return None

    class CachingInstance(sdk_class):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
        def _run_code(self, code: str, **extra_globals: Any) -> None:
            sdk_class._run_code(self, _compiled(code), **extra_globals)  # noqa: SLF001

        # Neither of these runs workflow code, so they need no sandbox.

        def get_serialization_context(self, command_info: Any) -> Any:
            return self.globals_and_locals[_IN_SANDBOX].get_serialization_context(command_info)

        def get_external_store_context(self, command_info: Any) -> Any:
            return self.globals_and_locals[_IN_SANDBOX].get_external_store_context(command_info)

    return CachingInstance


@lru_cache(maxsize=1024)
def _compiled(code: str) -> CodeType:
    return compile(code, "<string>", "exec")


def is_known_sandbox(instance_class: Any) -> bool:
    """Check that the SDK's class of sandbox instances is made as the one above assumes."""
    return all(
        _is_as_assumed(getattr(instance_class, name, None), *assumed)
        for name, assumed in _SANDBOX_METHODS.items()
    )


def _is_as_assumed(method: Any, parameters: str, *contents: str) -> bool:
    code = getattr(method, "__code__", None)
    if code is None:
        return False
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    within = [str(each) for each in (*code.co_names, *code.co_consts)]
    return " ".join(names) == parameters and all(
        any(content in each for each in within) for content in contents
    )


def process_modules() -> Mapping[str, ModuleType]:
    """Find the modules of the process; in a sandbox, `sys.modules` is a stand-in of the SDK's."""
    modules: Mapping[str, ModuleType] = getattr(sys.modules, "orig", sys.modules)
    return modules
