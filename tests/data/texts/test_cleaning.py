"""ALBEF's cleaning of captions and questions."""

import pytest

from mmkit.data.texts.cleaning import clean_caption, clean_question


def test_cleaning_follows_the_recipe():
    assert (
        clean_caption(' A man\'s T-shirt, and/or "hat"! (red) <person> *#:;~ \n')
        == "a mans t shirt and or hat red person"
    )
    assert clean_caption("word " * 40).split() == ["word"] * 30
    assert clean_caption("one two three", max_words=2) == "one two"
    assert clean_caption("word " * 40, max_words=None).split() == ["word"] * 40


def test_questions_keep_their_spaces_and_take_fifty_words():
    assert clean_question("What's <person> - doing? ") == "whats <person>   doing"
    assert clean_question("word " * 60).split() == ["word"] * 50
    assert clean_question("a  b c", max_words=3) == "a  b"  # what stands between two spaces counts as a word there


@pytest.mark.parametrize(
    "text",
    ["a man , riding a wave !", " A--B // c ", "tab\tand\n\nline\n", "ΑΣ'Σ İ", "word " * 40, "<person>s' hat", ""],
)
@pytest.mark.parametrize("clean", [clean_caption, clean_question])
def test_cleaning_twice_is_cleaning_once(clean, text):
    assert clean(clean(text)) == clean(text)
