"""What a vocabulary is made of: a sample over all captions, long ones whole; any string goes through a tokenizer."""

from functools import partial

import pytest

from mmkit.data.texts import sample
from mmkit.data.texts.coverage import coverage
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.data.texts.sample import drawn, lines, valid
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.errors import UserError

ENGLISH, RUSSIAN = "a red dog on the grass", "красная собака на траве"


class Captions:
    def __init__(self, texts):
        self.captions = lambda: iter(texts)


def test_a_sample_is_of_all_captions_also_of_further_sources(monkeypatch):
    """Ten of the first thousand, then those that are chained behind: half of the sample is theirs."""
    monkeypatch.setattr(sample.drawn, "__defaults__", (100, 0))
    one = train_sentencepiece(
        captions=lambda: iter([ENGLISH] * 1000), more=[partial(Captions, [RUSSIAN] * 1000)], folder=None, vocab_size=80
    )
    assert one.unk_id not in one.encode(RUSSIAN, 40)
    assert one.unk_id not in one.encode(ENGLISH, 40)
    two = train_sentencepiece(
        captions=lambda: iter([ENGLISH] * 1000), more=[partial(Captions, [RUSSIAN] * 1000)], folder=None, vocab_size=80
    )
    assert two.encode(RUSSIAN, 40) == one.encode(RUSSIAN, 40)


def test_a_sample_is_uniform_and_seeded_and_few_captions_stay_as_they_are():
    texts = [str(i) for i in range(2000)]
    assert drawn(iter(texts[:100]), 100) == texts[:100]
    assert drawn(iter([" ", *texts[:3], ""]), 100) == texts[:3]
    found = drawn(iter(texts), 400)
    assert found == drawn(iter(texts), 400) != drawn(iter(texts), 400, seed=1)
    assert len(set(found)) == 400
    assert 150 < sum(int(text) >= 1000 for text in found) < 250
    assert 60 < sum(int(text) >= 1600 for text in found) < 100


def test_long_captions_count(caplog):
    """Over 4,192 bytes sentencepiece leaves a line out without a word; then "INTERNAL: ..." was all that was said."""
    caplog.set_level("INFO")
    dense = " ".join(f"word{i % 40} red" for i in range(800))
    own = SentencePieceTokenizer.train([dense], 120)
    assert own.vocab_size > 60
    assert own.unk_id not in own.encode("word7 red", 40)
    assert "1 captions are longer than 4,192 bytes" in caplog.text
    assert "cut there too" not in caplog.text
    chinese = SentencePieceTokenizer.train(["一只红色的狗在草地上" * 300], 60)
    assert chinese.unk_id not in chinese.encode("红色的狗", 40)
    assert "1 of them have runs without a space" in caplog.text


@pytest.mark.parametrize("text", ["a bb ccc dddd", "abcdefghijklmnop q", "é" * 9, "a  b ", "狗 猫" * 5])
def test_lines_keep_every_letter(text):
    found = list(lines([text], longest=6))
    assert all(len(line.encode()) <= 6 for line in found)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert list(lines([text], longest=1000)) == [text]


def test_a_vocabulary_that_is_too_small_says_how_large_it_must_be():
    need = r"vocab_size=12: their letters alone need 32 pieces; give at least \d+"
    with pytest.raises(UserError, match=need) as error:
        SentencePieceTokenizer.train(["the quick brown fox jumps over the lazy dog"] * 9, 12)
    assert "INTERNAL" not in str(error.value)


STRANGE = [
    "box \ud83d",
    "\udcff",
    "a\0b",
    "",
    "   ",
    "\u200e\u200fא",
    "x" * 20_000,
    "\ufeffdog",
    "\n\r\t",
    "e\u0301\u0301",
]


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_any_string_is_read(text, tokenizer, bert_folder):
    for own in (tokenizer, HuggingFaceTokenizer(bert_folder), HuggingFaceTokenizer("clip")):
        ids = own.encode(text, 30)
        assert ids[0] == own.cls_id
        assert len(ids) <= 30
        assert len(own.starts_word(ids)) == len(ids)
        assert isinstance(own.decode(ids), str)
    SentencePieceTokenizer.train([text, "a dog"], 400)


def test_half_a_character_is_a_mark_of_it_and_two_halves_are_one():
    assert valid("box \ud83d") == "box \ufffd"
    assert valid("\ud83d\udc36 dog") == "🐶 dog"
    assert valid("a🐶") == "a🐶"


def test_what_a_vocabulary_does_not_know_and_spells_is_counted():
    own = SentencePieceTokenizer.train(["a red dog"] * 20, 60)
    found = coverage(own, ["a red dog", "a god", "ж"], 4)
    assert (found.texts, found.unknown) == (3, 1)
    assert found.spelt == 3  # g, o, d; the a is a word
    assert found.cut == 1
    assert coverage(own, ["a red dog"], 40).spelt == 0
    assert "of 3 captions 1" in found.line().replace("the pieces ", "")
    assert "1 captions are longer than 4 tokens" in found.line()
