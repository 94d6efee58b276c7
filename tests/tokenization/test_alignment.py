import re

import pytest

from tf_gpt.tokenization.alignment import Traced


def sources(traced, original):
    """Returns what each character came from."""
    return [original[start:end] for start, end in traced.spans]


def test_map_sub_and_strip_keep_places():
    text = "  Ab--c  "
    traced = Traced(text).map(str.lower).sub(re.compile("(-+)"), r" \1 ").strip()
    assert traced.text == "ab -- c"
    assert sources(traced, text) == ["A", "b", "--", "-", "-", "--", "c"]
    assert traced.span(0, 2) == (2, 4)
    assert traced[5:].text == " c"


def test_map_may_drop_and_multiply_characters():
    traced = Traced("xyz").map(lambda c: {"x": "", "y": "yy"}.get(c, c))
    assert traced.text == "yyz"
    assert traced.spans == [(1, 2), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    "old, new, word, source",
    [
        ("it was “so”, he said", 'it was "so", he said', '"so"', "“so”"),
        ("the lionâ€™s heart", "the lion's heart", "'", "â€™"),
        ("a ﬁne day", "a fine day", "fi", "ﬁ"),
        ("one &amp; two", "one & two", "&", "&amp;"),
        ("abc", "abc", "b", "b"),
    ],
)
def test_changed_text_is_traced_to_what_it_came_from(old, new, word, source):
    traced = Traced(old).replaced_by(new)
    assert traced.text == new
    at = new.index(word)
    start, end = traced.span(at, at + len(word))
    assert old[start:end] == source


def test_a_long_stretch_without_a_match_takes_little_work():
    old, new = "ж" * 50_000, "b" * 40_000
    traced = Traced(old).replaced_by(new)
    assert traced.spans == [(0, 50_000)] * 40_000
