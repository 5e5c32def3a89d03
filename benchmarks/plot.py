"""Results as an SVG: one panel a scenario, one bar a variant, whiskers for the quartiles."""

from html import escape
from itertools import groupby

from benchmarks.figures import Results, rows
from benchmarks.variants import BARE

WIDTH, LEFT, BAR, GAP, TITLE = 760, 200, 13, 5, 30
MOST = 2.0
COLOURS = {
    BARE: "#9aa0a6",
    "tenancy": "#1a73e8",
    "tenancy + tracing": "#0b468c",
    "bare SDK, no sandbox": "#c9cdd2",
    "SDK OpenTelemetryPlugin": "#e8710a",
    "SDK TracingInterceptor": "#f2b166",
    "hand-written propagation": "#34a853",
}


def draw(results: Results) -> str:
    """Draw the worker CPU compared with the bare SDK."""
    parts: list[str] = []
    y = 40
    for scenario, own in groupby(rows(results), key=lambda row: row.scenario):
        parts.append(f'<text x="8" y="{y + 16}" class="title">{escape(scenario)}</text>')
        y += TITLE
        for row in own:
            if row.worker is None:
                continue
            middle = y + BAR / 2
            end, low, high = (_x(v) for v in (row.worker.median, row.worker.low, row.worker.high))
            colour = COLOURS.get(row.variant, "#777777")
            parts += [
                f'<text x="{LEFT - 8}" y="{y + 11}" class="name">{escape(row.variant)}</text>',
                f'<path d="M{LEFT} {middle}H{end:.1f}" stroke="{colour}" stroke-width="{BAR}"/>',
                f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#202124"/>',
                f'<text x="{max(end, high) + 6:.1f}" y="{y + 11}">{row.worker.median:.2f}</text>',
            ]
            y += BAR + GAP
        y += GAP
    one = _x(1.0)
    box = f'viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" font-family="sans-serif"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-size="11">',
            "<style>.title{font-weight:bold;font-size:13px}.name{text-anchor:end}</style>",
            f'<rect width="{WIDTH}" height="{y + 10}" fill="white"/>',
            '<text x="8" y="22" font-size="15">CPU of the worker beside the bare SDK (1.0)</text>',
            f'<path d="M{one} 34V{y}" stroke="#d93025" stroke-dasharray="3 3"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _x(ratio: float) -> float:
    return LEFT + min(ratio, MOST) / MOST * (WIDTH - LEFT - 50)
