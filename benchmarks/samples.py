"""Samples of the measurements."""

from collections import defaultdict
from typing import Any

Samples = dict[str, dict[str, dict[str, list[float]]]]
"""Samples by scenario, variant and figure, one number per round."""


def no_samples() -> Samples:
    """Return the list to add samples to."""
    return defaultdict(lambda: defaultdict(lambda: defaultdict(list)))


def plain(samples: Samples) -> dict[str, Any]:
    """Return the samples as plain dictionaries for JSON."""
    return {s: {v: dict(f) for v, f in variants.items()} for s, variants in samples.items()}
