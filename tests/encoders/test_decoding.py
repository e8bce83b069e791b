"""What is written equals what transformers' generation writes, to the token; and what no library is asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mmkit.encoders.decoder import TextDecoder
from mmkit.encoders.decoding import Decoding, kept, write
from mmkit.encoders.prefix import PrefixDecoder
from mmkit.errors import UserError
from mmkit.heads.writing import DecoderWriter
from mmkit.nn.vocabulary import VocabularyHead
from mmkit.types import Tokens

WORDS, LAST, SIZE, LONGEST = 9, 3, 4, 9


@dataclass(frozen=True)
class Theirs:
    """A language model of transformers as a ``Writer``; its past is all tokens so far."""

    model: GPT2LMHeadModel

    def read(self, ids_RN: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        ids_RL = ids_RN if past is None else torch.cat([past, ids_RN], 1)
        return self.model(ids_RL).logits[:, -1], ids_RL

    def chosen(self, past: Tensor, rows_R: Tensor) -> Tensor:
        return past[rows_R]

    def repeated(self, times: int) -> Theirs:
        return self


def language(seed: int, sure: float = 9.0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    config = GPT2Config(vocab_size=WORDS, bos_token_id=1, eos_token_id=LAST, pad_token_id=LAST, **sizes)
    model = GPT2LMHeadModel(config).eval()
    for weight in model.parameters():
        weight.data.mul_(sure) if weight.dim() > 1 else None
    return model


def theirs(model: GPT2LMHeadModel, prompt: Tensor, how: Decoding) -> tuple[Tensor, Tensor]:
    found: Any = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=how.beams, top_k=None, top_p=None,
        max_new_tokens=how.max_new_tokens, min_new_tokens=how.min_new_tokens, length_penalty=how.length_penalty,
        early_stopping=how.early_stopping, repetition_penalty=how.repetition_penalty, return_dict_in_generate=True,
        output_scores=True, pad_token_id=LAST,
    )  # fmt: skip
    ids = found.sequences[:, prompt.shape[1] :]
    if how.beams > 1:
        return ids, found.sequences_scores
    each = torch.stack(found.scores, 1).log_softmax(-1).gather(2, ids[..., None])[..., 0]
    before = (ids == LAST).cumsum(1) - (ids == LAST).long()  # how many ends stand before a word
    return ids, (each * (before == 0)).sum(1)


WAYS = [
    Decoding(max_new_tokens=LONGEST),
    Decoding(max_new_tokens=LONGEST, min_new_tokens=4, repetition_penalty=1.3),
    Decoding(max_new_tokens=LONGEST, beams=3),
    Decoding(max_new_tokens=LONGEST, beams=3, length_penalty=0.0, early_stopping="never"),
    Decoding(max_new_tokens=LONGEST, beams=4, length_penalty=0.6, early_stopping=True),
    Decoding(max_new_tokens=LONGEST, beams=2, length_penalty=2.0, early_stopping="never", repetition_penalty=1.2),
    Decoding(max_new_tokens=LONGEST, beams=3, length_penalty=-1.0, min_new_tokens=3),
    Decoding(max_new_tokens=1, beams=3),
]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: f"{how.beams} {how.length_penalty} {how.early_stopping}")
def test_texts_are_those_of_transformers(how):
    lengths = set()
    for seed in range(12):
        model = language(seed)
        prompt = torch.randint(4, WORDS, (SIZE, 1 + seed % 3), generator=torch.Generator().manual_seed(seed))
        ids, scores = theirs(model, prompt, how)
        text = write(Theirs(model), prompt, LAST, how)
        assert text.ids.tolist() == ids.tolist()
        torch.testing.assert_close(text.log, scores)
        lengths |= {tuple(row).index(LAST) if LAST in row else how.max_new_tokens for row in text.ids.tolist()}
    assert len(lengths) > 1 or how.max_new_tokens == 1  # texts that ended early were among them


@pytest.mark.parametrize(("k", "p"), [(0, 0.5), (4, 1.0), (3, 0.7), (0, 0.01), (50, 0.9)])
def test_what_is_left_to_draw_from_is_what_transformers_leaves(k, p):
    scores = torch.randn(40, 12, generator=torch.Generator().manual_seed(k)) * 3
    scores[0, :4] = scores[0].max() + 1  # a draw: all that are as likely as the k-th stay
    left = TemperatureLogitsWarper(0.7)(None, scores)
    if k:
        left = TopKLogitsWarper(k)(None, left)
    if p < 1:
        left = TopPLogitsWarper(p)(None, left)
    assert torch.equal(kept(scores / 0.7, k, p), left)


class Fixed:
    """Says the same of every next word."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def read(self, ids_RN: Tensor, past: None) -> tuple[Tensor, None]:
        return self.logits.expand(len(ids_RN), -1), None


def test_words_are_drawn_by_their_probabilities_and_again_by_the_same_seed():
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf, 0.5])
    start = torch.zeros(4000, 1, dtype=torch.int64)
    how = Decoding(sample=True, max_new_tokens=2, temperature=2.0, seed=5)
    text = write(Fixed(logits), start, 3, how)
    for place in range(2):
        share = text.ids[:, place].bincount(minlength=5) / 4000
        torch.testing.assert_close(share, (logits / 2).softmax(0), atol=0.025, rtol=0)
    assert (text.ids[:, 0] != text.ids[:, 1]).any()
    assert torch.equal(text.ids, write(Fixed(logits), start, 3, how).ids)
    assert not torch.equal(text.ids, write(Fixed(logits), start, 3, replace(how, seed=6)).ids)


@pytest.fixture(params=[TextDecoder, PrefixDecoder])
def decoder(request) -> DecoderWriter:
    torch.manual_seed(3)
    decoder = request.param(WORDS, 16, depth=2, width=16, heads=2, source_width=8).eval()
    vocabulary = VocabularyHead(16, WORDS).eval()
    torch.nn.init.normal_(decoder.embeddings.words.weight, std=3.0)
    for block in decoder.blocks:
        torch.nn.init.normal_((block.attn.qkv if block.cross is None else block.cross.kv).weight)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return DecoderWriter(decoder, decoder.context(Tokens(torch.randn(2, 5, 8) * 3, mask)), vocabulary.logits)


@dataclass(frozen=True)
class Whole:
    """The same decoder without a past: all tokens are read again."""

    writer: DecoderWriter

    def read(self, ids_RN: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        ids_RL = ids_RN if past is None else torch.cat([past, ids_RN], 1)
        states = self.writer.decoder(ids_RL, self.writer.context)
        return self.writer.logits(states[:, -1], self.writer.decoder.word_embeddings), ids_RL

    def chosen(self, past: Tensor, rows_R: Tensor) -> Tensor:
        return past[rows_R]

    def repeated(self, times: int) -> Whole:
        return Whole(self.writer.repeated(times))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_decoder_that_keeps_its_past_writes_what_one_that_reads_all_again_does(decoder, beams):
    prompt = torch.tensor([[1, 4], [1, 5]])
    how = Decoding(beams=beams, max_new_tokens=8)
    text, whole = write(decoder, prompt, LAST, how), write(Whole(decoder), prompt, LAST, how)
    assert torch.equal(text.ids, whole.ids)
    torch.testing.assert_close(text.log, whole.log, rtol=1e-4, atol=1e-4)
    alone = write(replace(decoder, context=decoder.context.rows(torch.tensor([1]))), prompt[1:], LAST, how)
    assert text.ids[1, : alone.ids.shape[1]].tolist() == alone.ids[0].tolist()
    assert text.ids[0].tolist() != text.ids[1].tolist()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_new_tokens": 31}, "min_new_tokens"),
        ({"beams": 0}, "beams"),
        ({"beams": 2, "sample": True}, "beams"),
        ({"top_p": 0.5}, "top_p"),
        ({"sample": True, "top_p": 0.0}, "top_p"),
        ({"sample": True, "temperature": 0.0}, "temperature"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"early_stopping": "always"}, "early_stopping"),
    ],
)
def test_ways_that_make_no_sense_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        Decoding(**wrong)
