"""Both tokenizers: what comes back is what went in, special tokens stay special, folders are enough to load."""

import io
import pickle

import pytest

from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    from_hub,
    load_tokenizer,
    train_sentencepiece,
)
from mmkit.errors import UserError
from tests.data.conftest import CAPTIONS


@pytest.mark.parametrize("text", ["a dog to the left of a cat", "一只狗在猫的左边", "红色的汽车 above a dog"])
def test_sentencepiece_round_trip(tokenizer, text):
    ids = tokenizer.encode(text, 40)
    assert isinstance(tokenizer, Tokenizer)
    assert ids[0] == tokenizer.cls_id
    assert tokenizer.sep_id not in ids
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", [
    "", " ", "a  red DOG ", "\ta red\t\ndog, a cat.", "don't \x00 stop \x07 it's [CLS] <unk>", "a [MASK] dog " * 3,
    "x" * 40 + " dog", "ein Hund ´ neben ﬁsch ½ e\u0301 \u0301", "一只 红色 的狗 dog",
])  # fmt: skip
def test_sentencepiece_encodes_words_as_it_encodes_texts(tokenizer, text):
    """What is kept of words of other texts is what the library makes of the whole."""
    tokenizer.encode("red dog a cat", None)
    assert tokenizer.encode(text, None)[1:] == tokenizer._processor.encode(text)


@pytest.mark.parametrize("options", [
    {"split_by_whitespace": False}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": False},
    {"treat_whitespace_as_suffix": True}, {"user_defined_symbols": ["red dog"]},
])  # fmt: skip
def test_a_model_whose_pieces_reach_over_spaces_reads_whole_texts(options):
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red dog", "the red dog of a cat"] * 20), model_writer=out, model_type="bpe",
        vocab_size=60, hard_vocab_limit=False, pad_id=0, unk_id=1, bos_id=2, eos_id=3, pad_piece="[PAD]",
        unk_piece="[UNK]", bos_piece="[CLS]", eos_piece="[SEP]", control_symbols=["[MASK]"], minloglevel=3, **options,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(out.getvalue())
    for text in ("a red dog", "the  red dog ", "red dog"):
        assert tokenizer.encode(text, None)[1:] == tokenizer._processor.encode(text)


def test_sentencepiece_specials_case_and_truncation(tokenizer):
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert tokenizer.encode("A DOG", 9) == tokenizer.encode("a dog", 9)
    assert len(tokenizer.encode("a dog to the left of a cat", 4)) == 4
    # what somebody writes is never an order to the model
    assert not {tokenizer.mask_id, tokenizer.pad_id, tokenizer.sep_id} & set(tokenizer.encode("[MASK] [PAD] [SEP]", 40))
    assert tokenizer.encode("", 9) == [tokenizer.cls_id]


def test_sentencepiece_is_deterministic_and_saved(tokenizer, tmp_path):
    one = train_sentencepiece(captions=lambda: iter(CAPTIONS * 5), folder=tmp_path / "tok", vocab_size=60)
    two = SentencePieceTokenizer.train(CAPTIONS * 5, 60)
    assert one.vocab_size <= 60
    for copy in (two, load_tokenizer(tmp_path / "tok"), pickle.loads(pickle.dumps(one))):
        assert [copy.encode(c, 30) for c in CAPTIONS] == [one.encode(c, 30) for c in CAPTIONS]


def test_sentencepiece_small_corpus_and_none():
    assert SentencePieceTokenizer.train(["a dog"], 30_000).vocab_size < 30
    with pytest.raises(UserError, match="there are no captions"):
        SentencePieceTokenizer.train([])
    with pytest.raises(UserError, match="special tokens alone need more"):
        SentencePieceTokenizer.train(CAPTIONS, 5)


def test_frequent_words_are_one_piece():
    captions = [f"{thing} on a {colour} background" for thing in ("a dog", "two cats") for colour in ("green", "red")]
    tokenizer = SentencePieceTokenizer.train(captions * 50, 200)
    assert tokenizer.pieces(tokenizer.encode("a dog on a green background", 40))[1:] == [
        "▁a", "▁dog", "▁on", "▁a", "▁green", "▁background",
    ]  # fmt: skip


def test_sentencepiece_words(tokenizer):
    ids = tokenizer.encode("firefighters playing", 40)
    starts = tokenizer.starts_word(ids)
    words = "".join(("|" if s else "") + p for s, p in zip(starts, tokenizer.pieces(ids), strict=True))
    assert words.replace("▁", "") == "|[CLS]|firefighters|playing"
    chinese = tokenizer.encode("红色的汽车", 40)
    pieces, starts = tokenizer.pieces(chinese), tokenizer.starts_word(chinese)
    assert all(start for piece, start in zip(pieces, starts, strict=True) if piece.strip("▁"))


def test_hugging_face_folder(bert_folder, tmp_path):
    tokenizer = from_hub(name=str(bert_folder), captions=lambda: iter(()), folder=tmp_path / "tok")
    ids = tokenizer.encode("A dog's skyscrapers [MASK]", 30)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocab_size == 30_522
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0, 100, 101, 102, 103,
    )  # fmt: skip
    assert ids[0] == 101
    assert not {102, 103} & set(ids)
    assert tokenizer.decode(ids[:3]) == "a dog"
    assert len(tokenizer.encode("dog " * 600, 512)) == 512  # the folder's own limit of 128 does not apply
    again = load_tokenizer(tmp_path / "tok")
    assert again.encode("A dog's skyscrapers [MASK]", 30) == ids


def test_hugging_face_words(bert_folder):
    tokenizer = HuggingFaceTokenizer(bert_folder)
    ids = tokenizer.encode("firefighter dog", 30)
    assert tokenizer.pieces(ids) == ["[CLS]", "fire", "##fighter", "dog"]
    assert tokenizer.starts_word(ids) == [True, True, False, True]


@pytest.fixture
def byte_level(tmp_path):
    """A byte-level BPE without any special token, as GPT-2 has it."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the dog sees another dog", "dogs and cats"] * 50, vocab_size=300, min_frequency=2)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(tmp_path / "bpe")
    return tmp_path / "bpe"


def test_missing_special_tokens_are_added(byte_level):
    tokenizer = HuggingFaceTokenizer(byte_level)
    ids = tokenizer.encode("the dog sees", 30)
    assert len(tokenizer.special_ids) == 5
    assert max(tokenizer.special_ids) < tokenizer.vocab_size
    assert not tokenizer.special_ids & set(ids[1:])
    assert tokenizer.decode(ids) == "the dog sees"
    words = [p for p, s in zip(tokenizer.pieces(ids), tokenizer.starts_word(ids), strict=True) if s]
    assert words[0] == "[CLS]"
    assert len(words) >= 3


def test_what_may_not_grow_has_its_own_tokens_alone(byte_level):
    with pytest.raises(UserError, match="has no unk token and nothing that could stand in; let it grow"):
        HuggingFaceTokenizer(byte_level, Framing(grows=False))
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(byte_level)
    made.add_special_tokens({"bos_token": "<a>", "eos_token": "<z>"})
    made.save_pretrained(byte_level)
    size, (first, last) = len(made), (made.bos_token_id, made.eos_token_id)
    found = HuggingFaceTokenizer(byte_level, Framing(grows=False, last=True))
    assert (found.vocab_size, found.cls_id, found.sep_id, found.pad_id, found.unk_id) == (size, first, last, last, last)
    assert found.mask_id is None
    ids = found.encode("the dog sees another dog", 4)
    assert (len(ids), ids[0], ids[-1]) == (4, first, last)
    assert found.special_ids == {first, last}
    made.add_special_tokens({"unk_token": "<u>"})
    made.save_pretrained(byte_level)
    found = HuggingFaceTokenizer(byte_level, Framing(grows=False))
    assert (found.unk_id, found.pad_id, found.sep_id) == (size, last, last)  # the end before the unknown
    size += 1
    grown = HuggingFaceTokenizer(byte_level, Framing(last=True))
    assert (grown.vocab_size, grown.cls_id, grown.sep_id) == (size + 2, first, last)  # [PAD], [MASK]
    assert grown.special_ids == {first, last, *range(size - 1, size + 2)}


def test_unknown_tokenizers_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such folder"):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"none of tokenizer.json, .* is in it"):
        load_tokenizer(tmp_path / "empty")
    import transformers

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(UserError, match=r"(?s)'bert-base-xyz'.*put its tokenizer.json .* in a folder"):
        load_tokenizer("bert-base-xyz")
    (tmp_path / "x.model").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        load_tokenizer(tmp_path / "x.model")
