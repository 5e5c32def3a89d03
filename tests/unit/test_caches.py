"""Bounded caches."""

from orkestra.caches import LruCache


def test_the_number_of_entries_is_bounded():
    recent = LruCache[int, str](100)
    recent.put(-1, "kept")
    for number in range(100_000):
        recent.put(number, "made up")
        assert recent.get(-1) == "kept"
    assert len(recent) == 100
    assert recent.get(5) is None


def test_a_replaced_value_becomes_the_most_recent():
    recent = LruCache[int, str](2)
    for number, text in ((1, "old"), (2, "b"), (1, "new"), (3, "c")):
        recent.put(number, text)
    assert [recent.get(number) for number in (1, 2, 3)] == ["new", None, "c"]
