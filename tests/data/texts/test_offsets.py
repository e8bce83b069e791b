"""Which characters each token stands for, for every kind of tokenizer that we have; refused where nobody can tell."""

import pytest

from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.offsets import WithOffsets, encode_with_offsets, tokens_in, trimmed
from mmkit.data.texts.protocol import Framing
from mmkit.encoders.open_clip import OpenClipTokenizer
from mmkit.errors import UserError
from tests.data.texts.huggingface.test_folder import MADE

TEXTS = ("a red box", "Two DOGS, one cat!", "naïve café 紅い箱", "  leading  spaces", "")


def told(tokenizer, text, max_tokens=None):
    ids, offsets = encode_with_offsets(tokenizer, text, max_tokens)
    assert ids == tokenizer.encode(text, max_tokens)
    assert len(offsets) == len(ids)
    return [text[first:last] for first, last in offsets]


def covers(tokenizer, text):
    """Every letter belongs to a token, in order, and none is white space alone."""
    words = told(tokenizer, text)
    assert all(word == word.strip() for word in words)
    _ids, offsets = encode_with_offsets(tokenizer, text, None)
    real = [span for span in offsets if span[0] < span[1]]
    assert real == sorted(real)
    seen = {i for first, last in real for i in range(first, last)}
    assert {i for i, letter in enumerate(text) if not letter.isspace()} <= seen
    return [word for word in words if word]


@pytest.mark.parametrize("kind", MADE)
def test_hugging_face(tmp_path, kind):
    MADE[kind](tmp_path)
    tokenizer = HuggingFaceTokenizer(tmp_path)
    assert isinstance(tokenizer, WithOffsets)
    for text in TEXTS:
        covers(tokenizer, text)
    assert [*dict.fromkeys("".join(covers(tokenizer, "a red box")))] == [*dict.fromkeys("aredbox")]


def test_frames_have_no_characters_and_cuts_are_those_of_encode(tmp_path):
    MADE["BERT"](tmp_path)
    tokenizer = HuggingFaceTokenizer(tmp_path, Framing(last=True))
    assert told(tokenizer, "a red  Box") == ["", "a", "red", "Box", ""]
    assert told(tokenizer, "a red Box", 4) == ["", "a", "red", ""]
    assert encode_with_offsets(tokenizer, "a red Box", 4)[1] == [(0, 0), (0, 1), (2, 5), (0, 0)]
    assert told(HuggingFaceTokenizer(tmp_path, Framing(first=False)), "a red Box") == ["a", "red", "Box"]


def test_clip():
    tokenizer = HuggingFaceTokenizer("clip")
    assert covers(tokenizer, "a dog, LEFT of it") == ["a", "dog", ",", "LEFT", "of", "it"]


def test_sentencepiece(tokenizer):
    assert told(tokenizer, "A  dog to the left", 4)[0] == ""
    for text in ("a dog to the left of a cat", "A DOG", "一只狗在猫的左边 ﬁsh", "a dog  "):
        assert "".join("".join(covers(tokenizer, text)).split()) == "".join(text.split())
    ids, offsets = encode_with_offsets(tokenizer, "a dog to the left of a dog", None)
    at = tokens_in(offsets, [(23, 26)])
    assert tokenizer.decode([ids[i] for i in at]) == "dog"
    assert min(at) > len(ids) // 2


def test_tokens_of_spans():
    offsets = [(0, 0), (0, 1), (2, 5), (5, 7), (8, 9), (0, 0)]
    assert tokens_in(offsets, [(2, 5)]) == [2]
    assert tokens_in(offsets, [(4, 6)]) == [2, 3]  # a token of which a part is meant
    assert tokens_in(offsets, [(0, 1), (8, 9)]) == [1, 4]
    assert tokens_in(offsets, [(1, 2)]) == tokens_in(offsets, []) == []
    assert trimmed("abc", [(2, 2), (1, 2)]) == [(0, 0), (1, 2)]
    assert trimmed(" a  ", [(0, 2), (2, 4), (1, 2), (0, 4)]) == [(1, 2), (0, 0), (1, 2), (1, 2)]


def test_what_nobody_can_tell_is_refused(tmp_path, tokenizer):
    MADE["BERT"](tmp_path)
    cleaning = HuggingFaceTokenizer(tmp_path, Framing(clean="albef"))
    with pytest.raises(UserError, match=r"'a red-box!': this tokenizer cleans texts .*'a red box"):
        encode_with_offsets(cleaning, "a red-box!", None)
    assert told(cleaning, "a RED box") == ["", "a", "RED", "box"]  # only its case
    with pytest.raises(UserError, match="cleans texts"):
        encode_with_offsets(HuggingFaceTokenizer(tmp_path, Framing(canonical=True)), "a red, box", None)
    with pytest.raises(UserError, match="half a character"):
        encode_with_offsets(tokenizer, "a \ud83d\ude00 dog", None)
    with pytest.raises(UserError, match="OpenClipTokenizer cannot tell which characters"):
        encode_with_offsets(OpenClipTokenizer.__new__(OpenClipTokenizer), "a", None)
