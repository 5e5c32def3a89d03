"""What was measured, before anything is made of it."""

from collections import defaultdict
from typing import Any

Samples = dict[str, dict[str, dict[str, list[float]]]]
"""By scenario, variant and figure; a number a round."""


def no_samples() -> Samples:
    """Where samples are added."""
    return defaultdict(lambda: defaultdict(lambda: defaultdict(list)))


def plain(samples: Samples) -> dict[str, Any]:
    """The samples as plain dictionaries, for JSON."""
    return {s: {v: dict(f) for v, f in variants.items()} for s, variants in samples.items()}
