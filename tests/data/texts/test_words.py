"""Where words begin in every script, from the places of the pieces; by tokenizers of each kind."""

import pytest
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mmkit.data.texts.huggingface.surfaces import _alphabet, surfaces
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.words import boundaries, word_starts
from mmkit.explanation.words import words_of

WORDS = """
a red dog | a|red|dog
it's the dog's t-shirt | it's|the|dog's|t-shirt
costs 3.5 or 1,000 dollars | costs|3.5|or|1,000|dollars
and/or, (red) | and/|or,|(red)
dog,cat | dog,|cat
wait...what ((red)) "'tis | wait...|what|((red))|"'tis
café naïve | café|naïve
一只狗。 | 一|只|狗。
猫の左に | 猫|の|左|に
ニューヨーク | ニュ|ー|ヨ|ー|ク
3只dog 狗-dog | 3|只|dog|狗-|dog
한국어 단어 | 한국어|단어
สุนัขสีแดง | สุ|นั|ข|สี|แด|ง
ที่เก็บน้ำ | ที่|เก็|บ|น้ำ
ສະບາຍດີ | ສະ|ບາ|ຍ|ດີ
๑๒๓ ៣៤ | ๑๒๓|៣៤
ភាសាខ្មែរ | ភា|សា|ខ្មែ|រ
မြန်မာ | မြ|န်|မာ
हिन्दी भाषा | हिन्दी|भाषा
می‌خواهم سگ | می‌خواهم|سگ
👩🏽‍🚀🇩🇪🇫🇷❤️dog | 👩🏽‍🚀|🇩🇪|🇫🇷|❤️|dog
👩🏽-dog 👩-dog 👍🏽cat | 👩🏽-|dog|👩-|dog|👍🏽|cat
20°C www.a-b.com x_y | 20°C|www.a-b.com|x_y
"""


def cut(text):
    starts = boundaries(text)
    return [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


@pytest.mark.parametrize("line", WORDS.strip().splitlines())
def test_words_of_a_text(line):
    text, _, wanted = line.partition(" | ")
    if "ー" in text:
        wanted = "ニュー|ヨー|ク"
    assert cut(text) == wanted.split("|")


def test_pieces_begin_words_by_their_place():
    assert word_starts([None, b" do", b"g", b" ", b"cat", None, b"s", None]) == [
        True, True, False, True, False, True, True, True,
    ]  # fmt: skip
    assert word_starts([b" ", b" dog", b" cat"]) == [True, False, True]  # the first of two spaces opened the word
    assert word_starts([b"a", b"  ", b"b", b" \n", b" c"]) == [True, True, False, False, True]
    for letter, digit in ((b"a", b"3"), (b"dog", b"3"), (b"A", b"12")):  # a point joins digits, no letters
        assert word_starts([letter, b",", letter]) == [True, False, True]
        assert word_starts([digit, b",", digit]) == [True, False, False]
        assert word_starts([b" " + letter, letter, b"'", letter]) == [True, False, False, False]
    half, other = "狗".encode()[:2], "狗".encode()[2:]
    assert word_starts([None, "猫".encode(), half, other, "车".encode()]) == [True, True, True, False, True]
    assert word_starts([None, "猫".encode(), half]) == [True, True, True]  # what was cut in the middle of a letter
    assert word_starts([b"\n", b"dog", None, "\u3000".encode(), "猫".encode()]) == [True] * 5  # the first always
    assert word_starts([b"a", b" ", b" ", b"dog", b" ", None]) == [True, True, True, False, True, True]  # lone spaces
    assert word_starts([b"a", b" ", "\u0301b".encode()]) == [True, True, False]  # it opened what a mark begins
    assert word_starts([]) == []


def backend(model, pre_tokenizer=None, decoder=None, added=()):
    made = Tokenizer(model)
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        made.decoder = decoder
    made.add_tokens(list(added))
    return made


def test_what_the_pieces_of_each_kind_spell():
    def spelt(made, special=()):
        pieces = [made.id_to_token(i) for i in range(made.get_vocab_size())]
        return dict(zip(pieces, surfaces(made, pieces, special), strict=True))

    def vocab(*pieces):
        return {piece: number for number, piece in enumerate(pieces)}

    added = ["<obj>", AddedToken("<end>", special=True)]
    word = models.WordPiece(vocab("[UNK]", "fire", "##man"), unk_token="[UNK]")
    assert spelt(backend(word, added=added), special={0}) == {
        "[UNK]": None, "fire": b" fire", "##man": b"man", "<obj>": b" <obj> ", "<end>": None,
    }  # fmt: skip
    signs = models.BPE(vocab("\u0120dog", "\u00c3", "\u00a4"), [])
    wanted = {"\u0120dog": b" dog", "\u00c3": b"\xc3", "\u00a4": b"\xa4"}
    for place in ({"pre_tokenizer": pre_tokenizers.ByteLevel()}, {"decoder": decoders.ByteLevel()}):
        assert spelt(backend(signs, **place)) == wanted
    ends = models.BPE(vocab("do", "dog</w>"), [], end_of_word_suffix="</w>")
    assert spelt(backend(ends)) == {"do": b"do", "dog</w>": b"dog "}
    assert spelt(backend(ends, pre_tokenizers.ByteLevel())) == {"do": b"do", "dog</w>": b"dog "}
    spaced = models.Unigram([("\u2581dog", -1.0), ("s", -1.0), ("<0xE4>", -1.0), ("<0xe4>", -1.0)])
    assert list(spelt(backend(spaced)).values()) == [b" dog", b"s", b"\xe4", b"<0xe4>"]
    assert spelt(backend(models.WordLevel(vocab("dog", "cat")))) == {"dog": b" dog", "cat": b" cat"}


def test_the_letters_of_bytes_are_those_of_gpt_2():
    assert {byte: letter for letter, byte in _alphabet().items()} == bytes_to_unicode()


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the dog sees another dog, it's red", "一只红色的狗"] * 50, 266, min_frequency=2)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(folder)
    return HuggingFaceTokenizer(folder)


CHINESE = "一只红色的狗在猫的左边"


def groups(tokenizer, text, kind=str):
    ids = tokenizer.encode(text, 90)
    return ids, [word for word, _ in words_of(ids, tokenizer)]


def test_chinese_in_bytes_is_a_word_for_each_ideograph(byte_level):
    for tokenizer in (byte_level, HuggingFaceTokenizer("clip", Framing(last=True, grows=False))):
        ids, words = groups(tokenizer, CHINESE)
        assert len(ids) > len(CHINESE) + 2  # several bytes to a letter, or this tests nothing
        assert words == list(CHINESE)
    assert groups(byte_level, "the dog sees it's red")[1] == ["the", "dog", "sees", "it's", "red"]


def test_thai_and_marks_read_whole():
    texts = ["ที่นี่มีสุนัข", "แมวอยู่ที่นี่", "a café dog 🐶", "नीली किताब है"]
    tokenizer = SentencePieceTokenizer.train(texts, 62)
    thai = groups(tokenizer, "ที่นี่มีสุนัข")[1]
    assert len(thai) >= 3
    assert "".join(thai) == "ที่นี่มีสุนัข"
    assert groups(tokenizer, "नीली किताब")[1] == ["नीली", "किताब"]
    assert groups(tokenizer, "a café dog 🐶")[1] == ["a", "café", "dog", "🐶"]


def test_places_agree_with_those_that_the_libraries_tell(byte_level):
    """Each word begins where the text's own offsets say that a word begins."""
    sentencepiece = SentencePieceTokenizer.train(["a red dog on the green grass", CHINESE, "two cats"], 50)
    for text in ("a red dog on the green grass", CHINESE, "two red狗 cats"):
        for tokenizer in (byte_level, sentencepiece):
            ids = tokenizer.encode(text, 90)
            if tokenizer is byte_level:
                spans = [a for a, b in byte_level._backend.encode(text, add_special_tokens=False).offsets]
            else:
                proto = sentencepiece._processor.encode(text, return_type="proto")
                spans = [len(text.encode()[: piece.begin].decode()) for piece in proto.pieces]
            starts = tokenizer.starts_word(ids)[1:]
            begun = {a + (text[a : a + 1] == " ") for a, start in zip(spans, starts, strict=True) if start}
            assert begun >= {i for i in boundaries(text) if i in {a + (text[a : a + 1] == " ") for a in spans}}
            assert begun <= set(boundaries(text))
