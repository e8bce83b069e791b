"""Masking: the shares of section 3.1 of BERT, what is never hidden, and whole words."""

from random import Random

import pytest

from mmkit.data.masking import Masking
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


def test_impossible_shares():
    with pytest.raises(UserError, match="probability"):
        Masking(probability=1.5)
