"""A model without a joint space is measured by its matching head alone: every pair is judged."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from mmkit.errors import UserError
from mmkit.evals.retrieval import Pairs, Retrieval
from mmkit.evals.zeroshot import ZeroShot
from mmkit.inference.predictor import TokenBank
from tests.evals.parts import COLOURS, Pictures, predictor
from tests.sizes import dual_tiny, vilt_tiny


def shown(result):
    """The table as people see it."""
    console = Console(width=120, file=StringIO())
    console.print(result.table())
    return console.file.getvalue()


@pytest.fixture(scope="module")
def one_stream():
    return predictor(heads=("mixed",), model=vilt_tiny)


def test_retrieval_judges_every_pair(one_stream):
    source = Pictures(9)
    result = Retrieval(source=source, batch_size=2, pair_batch=7).evaluate(one_stream)
    pairs = Pairs.read(source)
    images = [source[i].image for i in range(9)]
    scores = torch.stack([one_stream.match([image] * len(pairs.texts), pairs.texts).logit() for image in images], 1)
    relevance = pairs.relevance()["t2i"].mask(range(len(pairs.texts)))
    best = scores.argmax(1)
    expected = relevance.gather(1, best[:, None]).double().mean().item()
    assert result.rates[""]["t2i"][1] == pytest.approx(expected)
    records = [source[i] for i in range(9)]
    bank, (tokens,) = TokenBank(one_stream.text_tokens(pairs.texts)), one_stream.image_tokens(records)
    every = torch.cartesian_prod(torch.arange(9), torch.arange(len(pairs.texts)))
    logits = one_stream.match_pairs(tokens, bank, every, score="match_logit").view(9, -1).T
    own = logits.gather(1, torch.tensor(pairs.image_of)[:, None])
    for k in (1, 5):  # as published: the own picture alone, by the logit of "match"
        assert result.rates["published"]["t2i"][k] == pytest.approx(((logits > own).sum(1) < k).double().mean().item())
    assert "rerank" not in result.rates
    assert shown(result).count("matching head, every pair") == 2
    assert "joint space" not in shown(result)
    assert result.to_json()["by"] == "matching head"


def test_zero_shot_judges_every_class(one_stream):
    source = Pictures(11)
    result = ZeroShot(source=source, templates=("a {} box",), batch_size=4).evaluate(one_stream)
    prompts = [f"a {name} box" for name in COLOURS]
    images = [source[i].image for i in range(11)]
    best = [int(one_stream.match([image] * len(prompts), prompts).argmax()) for image in images]
    assert result.top[:, 0].tolist() == best
    assert result.top.shape == (11, 5)
    assert result.reranked is None
    assert "matching head, every class" in shown(result)
    assert "joint space" not in shown(result)
    assert result.to_json()["by"] == "matching head"


@pytest.mark.parametrize("evaluator", [Retrieval, ZeroShot])
def test_there_is_nothing_to_re_rank(one_stream, evaluator):
    with pytest.raises(UserError, match=r"re-ranking .* has no meaning for this model.*leave it out"):
        evaluator(source=Pictures(5), rerank_top=3)(one_stream)


def test_without_a_matching_head_it_says_so():
    with pytest.raises(UserError, match="cannot match"):
        Retrieval(source=Pictures(5))(predictor(heads=(), model=vilt_tiny))


def test_a_dual_encoder_is_measured_and_not_re_ranked():
    model = predictor(heads=("itc",), model=dual_tiny)
    result = Retrieval(source=Pictures(7)).evaluate(model)
    assert 0 <= result.metrics()["t2i_r1"] <= 1
    assert result.to_json()["by"] == "joint space"
    assert "text to image, joint space" in shown(result)
    with pytest.raises(UserError, match="never read each other"):
        Retrieval(source=Pictures(7), rerank_top=3)(model)
