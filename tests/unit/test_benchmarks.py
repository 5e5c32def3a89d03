"""What `make bench` makes of its samples."""

from xml.etree import ElementTree

from benchmarks.__main__ import OTHERS, QUICK_SCENARIOS
from benchmarks.figures import ratio, rows
from benchmarks.page import BEGIN, DOCS, END, aims, figures, kept_results
from benchmarks.plot import draw
from benchmarks.report import activity_bytes, markdown
from benchmarks.scenarios import SCENARIOS
from benchmarks.variants import BARE, QUICK, TRACING, VARIANTS

RESULTS = {
    "one activity": {
        BARE: {
            "worker_ms": [10, 20, 30],
            "worker_instructions": [20, 20],
            "client_ms": [1, 1, 1],
            "history_bytes": [1000] * 3,
        },
        "tenancy": {
            "worker_ms": [11, 21, 36],
            "worker_instructions": [15, 17],
            "client_ms": [2, 2, 2],
            "history_bytes": [1170] * 3,
        },
    },
    "ten activities in sequence": {
        BARE: {"worker_ms": [50], "client_ms": [1], "history_bytes": [5500]},
        "tenancy": {"worker_ms": [55], "client_ms": [1], "history_bytes": [6030]},
    },
    "race": {"tenancy + tracing": {"spans": [30], "same id": [0]}},
}


def test_a_round_is_compared_with_the_same_round_of_the_bare_sdk():
    """The machine was three times slower in the last round; the ratio does not show it."""
    found = ratio([11, 21, 36], [10, 20, 30])
    assert found is not None
    assert (found.median, found.low, found.high) == (1.1, 1.05, 1.2)


def test_variants_without_rounds_in_common_have_no_ratio():
    assert ratio([], [10]) is None


def test_history_is_told_as_growth_over_the_bare_sdk():
    growths = {(row.scenario, row.variant): row.growth for row in rows(RESULTS)}
    assert growths["one activity", "tenancy"] == 170
    assert activity_bytes(RESULTS) == {BARE: 500, "tenancy": 540}


def test_the_table_has_a_row_for_each_variant_and_a_line_for_what_is_no_ratio():
    text = markdown(RESULTS)
    assert "| tenancy | 1.10 (1.05 to 1.20) | 21.00 | 0.80 | 16.00 | 2.00 (2.00 to 2.00) |" in text
    assert "- race, tenancy + tracing: spans 30, same id 0" in text


def test_the_plot_is_an_image_that_names_every_scenario_and_variant():
    root = ElementTree.fromstring(draw(RESULTS))  # noqa: S314 - it is our own
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"one activity", "ten activities in sequence", BARE, "tenancy", "1.10"} <= texts


def test_an_aim_is_told_with_what_was_measured_and_whether_it_is_met():
    told = [str(aim) for aim in aims(RESULTS)]
    assert "| CPU of the worker, one activity: tenancy | 1.05 | 1.10 (1.05 to 1.20) | no |" in told
    counted = (
        "| instructions of the worker, one activity: tenancy | 1.05 | 0.80 (0.75 to 0.85) | yes |"
    )
    assert counted in told
    assert "| tenancy, history of start, beside bare SDK: bytes | 130 | 130 | yes |" in told
    assert "| guard of a call: µs | 15 | not measured | no |" in told


def test_the_page_of_costs_says_what_the_kept_results_say():
    measured, growth = kept_results()
    _, _, rest = (DOCS / "benchmarks.md").read_text().partition(BEGIN)
    assert rest.partition(END)[0].strip() == figures(measured, growth).strip()


def test_the_short_run_is_made_of_what_there_is():
    assert set(QUICK_SCENARIOS) <= {*SCENARIOS, *OTHERS}
    assert {*QUICK, *TRACING} <= set(VARIANTS)
