"""Masking: the shares of section 3.1 of BERT, what is never hidden, and whole words."""

from random import Random

import pytest

from mmkit.data.loader import PairDataset
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.data.texts.protocol import Framing
from mmkit.errors import UserError

WORDS = "a dog to the left of a cat"


def draws(masking, tokenizer, ids, n=4000):
    rng = Random(0)
    return [masking(ids, tokenizer, rng) for _ in range(n)]


def test_shares_and_labels(tokenizer):
    ids = tokenizer.encode(WORDS, 40)
    chosen = masked = kept = 0
    for out, positions, labels in draws(Masking(), tokenizer, ids):
        assert labels == [ids[p] for p in positions]
        assert all(out[p] == ids[p] for p in range(len(ids)) if p not in positions)
        chosen += len(positions)
        masked += sum(out[p] == tokenizer.mask_id for p in positions)
        kept += sum(out[p] == ids[p] for p in positions)
    assert chosen / (4000 * (len(ids) - 1)) == pytest.approx(0.15, abs=0.01)
    assert masked / chosen == pytest.approx(0.8, abs=0.02)
    assert kept / chosen == pytest.approx(0.1, abs=0.02)


def test_padding_and_cls_are_never_hidden(tokenizer):
    ids = [tokenizer.cls_id, 9, 10, tokenizer.sep_id, tokenizer.pad_id, tokenizer.pad_id]
    for out, positions, _ in draws(Masking(probability=1.0), tokenizer, ids, 200):
        assert positions == [1, 2]
        assert out[0] == tokenizer.cls_id
        assert out[3:] == ids[3:]


def test_random_ids_cover_the_vocabulary(tokenizer):
    masking = Masking(probability=1.0, keep=0.0, random=1.0)
    seen = {out[1] for out, _, _ in draws(masking, tokenizer, [tokenizer.cls_id, 9], 4000)}
    assert seen == set(range(tokenizer.vocab_size))


def test_whole_words_are_hidden_together(tokenizer):
    ids = tokenizer.encode("firefighters playing basketball outside", 60)
    starts = tokenizer.starts_word(ids)
    word = [sum(starts[: i + 1]) for i in range(len(ids))]
    assert len(set(word)) < len(ids) - 4  # several pieces to a word, or this tests nothing
    words = 0
    for _, positions, _ in draws(Masking(whole_word=True), tokenizer, ids):
        hidden = {word[p] for p in positions}
        assert positions == [p for p in range(1, len(ids)) if word[p] in hidden]
        words += len(hidden)
    assert words / (4000 * 4) == pytest.approx(0.15, abs=0.012)


def test_single_pieces_are_not_tied_without_whole_word(tokenizer):
    ids = tokenizer.encode("firefighters", 60)
    assert any(len(p) not in (0, len(ids) - 1) for _, p, _ in draws(Masking(), tokenizer, ids, 200))


@pytest.mark.parametrize(
    "shares",
    [dict(probability=1.5), dict(probability=-0.1), dict(keep=0.6, random=0.6), dict(keep=-0.1), dict(random=-0.05)],
)
def test_impossible_shares(shares):
    with pytest.raises(UserError, match="probability"):
        Masking(**shares)
    Masking(probability=1.0, keep=0.0, random=1.0)


def test_the_first_piece_opens_a_word_whatever_it_looks_like(bert_folder):
    """As where a text goes on: no word would begin before the second, and the first be never hidden."""
    own = HuggingFaceTokenizer(bert_folder)
    ids = [own.cls_id, *own.encode("firefighter dog", 9)[2:], own.sep_id]
    assert own.pieces(ids) == ["[CLS]", "##fighter", "dog", "[SEP]"]
    for whole_word in (True, False):
        drawn = draws(Masking(whole_word=whole_word), own, ids)
        assert sum(1 in positions for _, positions, _ in drawn) / len(drawn) == pytest.approx(0.15, abs=0.02)


def test_a_thai_caption_is_not_one_word():
    """Hidden whole or not at all is what a caption without spaces was: 84 % of draws hid nothing."""
    texts = ["สุนัขสีแดงอยู่ทางซ้ายของแมว", "แมวสีดำอยู่บนโต๊ะ", "รถยนต์สีแดงอยู่บนถนน"]
    own = SentencePieceTokenizer.train(texts * 20, 70)
    ids = own.encode(texts[0], 60)
    drawn = [len(positions) for _, positions, _ in draws(Masking(whole_word=True), own, ids)]
    assert sum(drawn) / (4000 * (len(ids) - 1)) == pytest.approx(0.15, abs=0.012)
    assert sum(n == 0 for n in drawn) / 4000 < 0.3
    assert max(drawn) < len(ids) - 1


@pytest.mark.parametrize("whole_word", [True, False])
def test_without_a_mask_nothing_is_hidden_silently(whole_word):
    clip = HuggingFaceTokenizer("clip", Framing(last=True, grows=False))
    assert clip.mask_id is None
    ids = clip.encode("a dog", 9)
    with pytest.raises(UserError, match=r"no \[MASK\].*grows=True"):
        Masking(probability=1.0, keep=0.0, random=0.0, whole_word=whole_word)(ids, clip, Random(0))
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        PairDataset(source=[], transform=None, tokenizer=clip, max_tokens=9, masking=Masking())
    PairDataset(source=[], transform=None, tokenizer=clip, max_tokens=9)
