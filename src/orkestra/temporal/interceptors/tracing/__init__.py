"""The tracing interceptor: one trace for each workflow execution, the same from every process."""

from orkestra.temporal.interceptors.tracing.client import TracingClientInterceptor
from orkestra.temporal.interceptors.tracing.header import TRACE_HEADER
from orkestra.temporal.interceptors.tracing.interceptor import (
    TracingInterceptor,
    TracingOptions,
)

__all__ = ["TRACE_HEADER", "TracingClientInterceptor", "TracingInterceptor", "TracingOptions"]
