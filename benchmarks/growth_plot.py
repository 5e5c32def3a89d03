"""Growth of costs as an SVG: one panel for each size that grows, on a logarithmic axis."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from statistics import median
from typing import Final

from benchmarks.figures import Results, duration, ratio
from benchmarks.plot import COLOURS
from benchmarks.variants import BARE

WIDTH, HEIGHT, GAP, LEFT, TOP, BOTTOM = 240, 200, 40, 50, 70, 62
INSET: Final = 18
DODGE: Final = 6
"""Distance of the whiskers of two variants, so that none hides another."""
TENTHS: Final = (8, 14)
"""Smallest range of an axis, in tenths."""

PANELS: Final = {
    "tenants": ("A workflow of one activity", "tenants"),
    "cached": ("A workflow of one activity", "other workflows in the worker's cache"),
    "events": ("An event that is replayed", "events of its history"),
}

Sized = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Ratio to draw."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Position of a panel, and range of its axis."""

    left: float
    low: int
    high: int

    def y(self, value: float) -> float:
        share = (value * 10 - self.low) / (self.high - self.low)
        return TOP + HEIGHT * (1 - share)


def draw(results: Results) -> str:
    """Draw the ratios to the bare SDK in each panel, with its own cost below each size."""
    low, high = _tenths(results)
    parts = list(_legend(results))
    for place, (panel, variants) in enumerate(results.items()):
        left = LEFT + place * (WIDTH + GAP)
        parts += _panel(panel, variants, Frame(left=left, low=low, high=high))
    width, height = LEFT + len(results) * (WIDTH + GAP), TOP + HEIGHT + BOTTOM
    box = f'viewBox="0 0 {width} {height}" width="{width}" font-family="sans-serif"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-size="11" fill="#202124">',
            (
                "<style>.middle{text-anchor:middle}.end{text-anchor:end}.soft{fill:#5f6368}"
                ".title{font-weight:bold}</style>"
            ),
            f'<rect width="{width}" height="{height}" fill="white"/>',
            '<text x="8" y="20" font-size="15">CPU of the worker beside the bare SDK (1.0)</text>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _tenths(results: Results) -> tuple[int, int]:
    """Return the lowest and the highest tenth of the axes."""
    found = [
        each
        for variants in results.values()
        for own in variants.values()
        for size, costs in own.items()
        if (each := ratio(costs, variants[BARE][size])) is not None
    ]
    lowest = min((floor(each.low * 10) for each in found), default=TENTHS[0])
    highest = max((ceil(each.high * 10) for each in found), default=TENTHS[1])
    return min(lowest, TENTHS[0]), max(highest, TENTHS[1])


def _legend(results: Results) -> Iterator[str]:
    x = LEFT
    for variant in next(iter(results.values()), {}):
        dashes = ' stroke-dasharray="4 3"' if variant == BARE else ""
        yield f'<path d="M{x} 36h22" stroke="{COLOURS[variant]}" stroke-width="2"{dashes}/>'
        yield f'<text x="{x + 28}" y="40">{escape(variant)}</text>'
        x += 140
    yield f'<text x="{x}" y="40" class="soft">in grey: what the bare SDK takes</text>'


def _panel(panel: str, variants: Mapping[str, Sized], frame: Frame) -> Iterator[str]:
    title, label = PANELS[panel]
    middle, bottom = frame.left + WIDTH / 2, TOP + HEIGHT
    yield f'<text x="{middle}" y="{TOP - 10}" class="middle title">{title}</text>'
    yield f'<text x="{middle}" y="{bottom + 50}" class="middle">{label}</text>'
    for tenth in range(frame.low, frame.high + 1):
        y = frame.y(tenth / 10)
        dashes = ' stroke-dasharray="4 3"' if tenth == 10 else ""
        colour = COLOURS[BARE] if tenth == 10 else "#e8eaed"
        yield f'<path d="M{frame.left} {y:.1f}h{WIDTH}" stroke="{colour}"{dashes}/>'
        yield f'<text x="{frame.left - 6}" y="{y + 4:.1f}" class="end">{tenth / 10}</text>'
    bare = variants[BARE]
    x_of = _logarithm(frame, [int(size) for size in bare])
    for size, costs in bare.items():
        x = x_of(int(size))
        yield f'<path d="M{x:.1f} {bottom}v4" stroke="#5f6368"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" class="middle">{int(size):,}</text>'
        cost = duration(median(costs))
        yield f'<text x="{x:.1f}" y="{bottom + 30}" class="middle soft">{cost}</text>'
    others = [variant for variant in variants if variant != BARE]
    for place, variant in enumerate(others):
        shift = (place - (len(others) - 1) / 2) * DODGE
        points = list(_points(variants[variant], bare, frame, x_of, shift))
        yield from _line(points, COLOURS[variant])


def _logarithm(frame: Frame, sizes: Sequence[int]) -> Callable[[int], float]:
    first, last = log10(min(sizes)), log10(max(sizes))
    across = (WIDTH - 2 * INSET) / ((last - first) or 1)
    return lambda size: frame.left + INSET + (log10(size) - first) * across


def _points(
    own: Sized, bare: Sized, frame: Frame, x_of: Callable[[int], float], shift: float
) -> Iterator[Point]:
    for size, costs in own.items():
        found = ratio(costs, bare[size])
        if found is not None:
            y, low, high = (frame.y(v) for v in (found.median, found.low, found.high))
            yield Point(x=x_of(int(size)) + shift, y=y, low=low, high=high)


def _line(points: Sequence[Point], colour: str) -> Iterator[str]:
    path = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for point in points:
        yield f'<path d="M{point.x:.1f} {point.low:.1f}V{point.high:.1f}" stroke="{colour}"/>'
        yield f'<circle cx="{point.x:.1f}" cy="{point.y:.1f}" r="3" fill="{colour}"/>'
