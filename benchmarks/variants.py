"""Variants of a client and a worker: bare SDK, Orkestra, and alternatives."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.client import Client
from temporalio.contrib.opentelemetry import (
    OpenTelemetryPlugin,
    TracingInterceptor,
    create_tracer_provider,
)
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from benchmarks.propagation import VALUE, Propagation
from benchmarks.workloads.minimal import OneActivity
from benchmarks.workloads.modelled import Modelled
from benchmarks.workloads.plain import ACTIVITIES, WORKFLOWS
from orkestra import OrkestraConfig, OrkestraPlugin, TemporalSettings

BARE: Final = "bare SDK"
TENANT: Final = "acme"


async def _nothing() -> None:
    pass


def _passing(*modules: str) -> WorkflowRunner:
    """The SDK's sandbox with the modules of the workflows passed through."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules(
        "pydantic", "pydantic_core", "annotated_types", "httpx", *modules
    )
    return SandboxedWorkflowRunner(restrictions=restrictions)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Options of a variant for clients, workers and replayers.

    Attributes:
        plugins: Plugins of the client.
        interceptors: Interceptors of the client, which a worker inherits.
        runner: Workflow runner; None means the SDK's, or that of a plugin.
        flush: Sends the pending spans, so that the figures include their cost.
        config: Configuration of Orkestra, if the variant has it.
    """

    plugins: list[Any] = field(default_factory=list[Any])
    interceptors: list[Any] = field(default_factory=list[Any])
    runner: WorkflowRunner | None = None
    flush: Callable[[], Awaitable[object]] = _nothing
    config: OrkestraConfig | None = None

    async def connect(self, address: str) -> Client:
        return await Client.connect(address, plugins=self.plugins, interceptors=self.interceptors)

    def worker(self, client: Client, queue: str, **options: Any) -> Worker:
        if self.runner is not None:
            options["workflow_runner"] = self.runner
        return Worker(
            client,
            task_queue=queue,
            workflows=[*WORKFLOWS, OneActivity, Modelled],
            activities=ACTIVITIES,
            **options,
        )


def _orkestra(config: OrkestraConfig, tenant: str | None) -> Setup:
    plugin = OrkestraPlugin(config, tenant=tenant)
    return Setup(plugins=[plugin], flush=plugin.flush, config=config)


def _bare(_tenant: str | None) -> Setup:
    return Setup(runner=_passing())


def _unsandboxed(_tenant: str | None) -> Setup:
    return Setup(runner=UnsandboxedWorkflowRunner())


def _tenancy(tenant: str | None) -> Setup:
    address = os.environ.get("TEMPORAL_ADDRESS", "localhost:7233")
    return _orkestra(OrkestraConfig(temporal=TemporalSettings(address=address)), tenant)


def _tenancy_and_tracing(tenant: str | None) -> Setup:
    return _orkestra(OrkestraConfig.load(), tenant)


def _propagation(tenant: str | None) -> Setup:
    VALUE.set(tenant)
    return Setup(interceptors=[Propagation()], runner=_passing("benchmarks.propagation"))


def _exporter() -> BatchSpanProcessor:
    keys = f"{os.environ['LANGFUSE_PUBLIC_KEY']}:{os.environ['LANGFUSE_SECRET_KEY']}"
    return BatchSpanProcessor(
        OTLPSpanExporter(
            endpoint=os.environ["LANGFUSE_BASE_URL"] + "/api/public/otel/v1/traces",
            headers={"Authorization": "Basic " + base64.b64encode(keys.encode()).decode()},
            compression=Compression.Gzip,
        )
    )


def _sdk_plugin(_tenant: str | None) -> Setup:
    provider = create_tracer_provider()
    processor = _exporter()
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return Setup(
        plugins=[OpenTelemetryPlugin(add_temporal_spans=True)],
        runner=_passing(),
        flush=lambda: asyncio.to_thread(processor.force_flush),
    )


def _sdk_interceptor(_tenant: str | None) -> Setup:
    provider = TracerProvider()
    processor = _exporter()
    provider.add_span_processor(processor)
    return Setup(
        interceptors=[TracingInterceptor(provider.get_tracer("benchmarks"))],
        runner=_passing("opentelemetry"),
        flush=lambda: asyncio.to_thread(processor.force_flush),
    )


VARIANTS: Final[Mapping[str, Callable[[str | None], Setup]]] = {
    BARE: _bare,
    "tenancy": _tenancy,
    "tenancy + tracing": _tenancy_and_tracing,
    "bare SDK, no sandbox": _unsandboxed,
    "SDK OpenTelemetryPlugin": _sdk_plugin,
    "SDK TracingInterceptor": _sdk_interceptor,
    "hand-written propagation": _propagation,
}
"""Set-up of each variant, by the tenant of a client or None for a worker."""

QUICK: Final = (BARE, "tenancy", "tenancy + tracing")
TRACING: Final = frozenset(
    {"tenancy + tracing", "SDK OpenTelemetryPlugin", "SDK TracingInterceptor"}
)
