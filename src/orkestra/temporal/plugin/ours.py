"""Which interceptors are Orkestra's own, in a configuration that was cloned, too."""

from collections.abc import Iterable
from typing import TypeVar

from orkestra.temporal.interceptors.tenant import TenantInterceptor, TenantWorkerInterceptor
from orkestra.temporal.interceptors.tracing import TracingClientInterceptor, TracingInterceptor

_Interceptor = TypeVar("_Interceptor")


def is_ours(interceptor: object) -> bool:
    """Whether an interceptor came from a plugin of ours."""
    return isinstance(
        interceptor,
        TenantInterceptor | TenantWorkerInterceptor | TracingClientInterceptor | TracingInterceptor,
    )


def without_ours(interceptors: Iterable[_Interceptor]) -> list[_Interceptor]:
    """The interceptors of others, in their order."""
    return [interceptor for interceptor in interceptors if not is_ours(interceptor)]
