"""What `python -m benchmarks.growth` makes of its samples."""

from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.growth import EVENTS, SHORT, TITLES, Plan, show
from benchmarks.growth_plot import PANELS, draw
from benchmarks.variants import BARE

SVG = "{http://www.w3.org/2000/svg}"
RESULTS = {
    "tenants": {
        BARE: {"1": [10.0, 20.0, 30.0], "1000": [10.0, 10.0, 10.0]},
        "tenancy": {"1": [11.0, 22.0, 36.0], "1000": [10.0, 16.0, 10.0]},
    },
    "events": {
        "tenancy": {"10": [0.05, 0.05, 0.05]},
        BARE: {"10": [0.04, 0.04, 0.04]},
    },
}


def circles(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)  # noqa: S314 - it is our own
    return [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]


def test_each_size_is_compared_with_the_bare_sdk_at_the_same_size_in_the_same_round():
    console = Console(file=StringIO(), width=140)
    show(RESULTS, console)
    assert isinstance(console.file, StringIO)
    lines = [line.split() for line in console.file.getvalue().replace("│", " ").splitlines()]
    assert ["1", "20.0", "ms", "1.10", "(1.10", "to", "1.20)", "22.0", "ms"] in lines
    assert ["1,000", "10.0", "ms", "1.00", "(1.00", "to", "1.60)", "10.0", "ms"] in lines
    assert ["10", "40", "µs", "1.25", "(1.25", "to", "1.25)", "50", "µs"] in lines


def test_the_plot_has_a_dot_for_each_size_higher_where_the_ratio_is():
    (small, above), (large, below), (_, highest) = circles(draw(RESULTS))
    assert small < large
    assert highest < above < below


def test_ten_times_as_much_is_always_as_far_apart():
    costs = {"10": [1.0], "100": [1.0], "1000": [1.0]}
    (ten, _), (hundred, _), (thousand, _) = circles(
        draw({"cached": {BARE: costs, "tenancy": costs}})
    )
    assert thousand - hundred == pytest.approx(hundred - ten, abs=0.2)


def test_the_plot_names_panels_sizes_variants_and_what_the_bare_sdk_takes():
    root = ElementTree.fromstring(draw(RESULTS))  # noqa: S314 - it is our own
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {BARE, "tenancy", "tenants", "1,000", "20.0 ms", "events of its history"} <= texts


def test_nothing_is_drawn_outside_of_the_plot_however_large_a_ratio_is():
    wild = {"cached": {BARE: {"1": [1.0]}, "tenancy": {"1": [3.7]}}}
    root = ElementTree.fromstring(draw(wild))  # noqa: S314 - it is our own
    width, height = (float(each) for each in root.attrib["viewBox"].split()[2:])
    assert all(0 < x < width and 0 < y < height for x, y in circles(draw(wild)))


def test_the_short_run_is_less_of_the_same():
    whole = Plan()
    assert set(SHORT.tenants) < set(whole.tenants)
    assert set(SHORT.cached) < set(whole.cached)
    assert set(SHORT.events) < set(whole.events) == set(EVENTS)
    assert SHORT.workflows < whole.workflows
    assert set(TITLES) == set(PANELS)
