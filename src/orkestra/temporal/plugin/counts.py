"""What became of the spans of plugins."""

from collections.abc import Iterable

from orkestra.temporal.interceptors.tracing import TracingInterceptor
from orkestra.temporal.plugin.plugin import OrkestraPlugin
from orkestra.tracing import SpanCounts, TraceSink


def span_counts(plugins: Iterable[OrkestraPlugin]) -> SpanCounts:
    """What became of the spans of plugins, which may share where they send them."""
    # Plugins of one manager share a sink, whose counts must not be added up.
    sinks: dict[int, TraceSink] = {}
    tracing: dict[int, TracingInterceptor] = {}
    for plugin in plugins:
        sink, ours = plugin._shared.sink, plugin._worker_side.tracing  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - one package
        if sink is not None:
            sinks[id(sink)] = sink
        if ours is not None:
            tracing[id(ours)] = ours
    held = SpanCounts(held=sum(each.held for each in tracing.values()))
    taken = [getattr(each, "counts", SpanCounts()) for each in sinks.values()]
    return SpanCounts.sum([held, *taken])
