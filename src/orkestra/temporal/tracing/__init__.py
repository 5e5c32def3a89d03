"""The tracing interceptor: one trace for each workflow execution, the same from every process."""

from orkestra.temporal.tracing.headers import TRACE_HEADER
from orkestra.temporal.tracing.tracing_interceptor import (
    TracingClientInterceptor,
    TracingInterceptor,
    TracingOptions,
)

__all__ = ["TRACE_HEADER", "TracingClientInterceptor", "TracingInterceptor", "TracingOptions"]
