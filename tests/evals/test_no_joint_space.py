"""A model without a joint space is measured by its matching head alone: every pair is judged."""

import pytest
import torch

from mmkit.errors import UserError
from mmkit.evals.retrieval import Pairs, Retrieval
from mmkit.evals.zeroshot import ZeroShot
from mmkit.models.sizes_dual import dual_tiny
from mmkit.models.sizes_vilt import vilt_tiny
from tests.evals.parts import COLOURS, Pictures, predictor


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
    assert result.recall["t2i"][1] == pytest.approx(expected)
    assert not result.rerank
    again = Retrieval(source=source, batch_size=4, rerank_top=3).evaluate(one_stream)
    assert again.metrics() == pytest.approx(result.metrics())


def test_zero_shot_judges_every_class(one_stream):
    source = Pictures(11)
    result = ZeroShot(source=source, templates=("a {} box",), batch_size=4).evaluate(one_stream)
    prompts = [f"a {name} box" for name in COLOURS]
    images = [source[i].image for i in range(11)]
    best = [int(one_stream.match([image] * len(prompts), prompts).argmax()) for image in images]
    assert result.top[:, 0].tolist() == best
    assert result.top.shape == (11, 5)
    assert result.reranked is None


def test_without_a_matching_head_it_says_so():
    with pytest.raises(UserError, match="cannot match"):
        Retrieval(source=Pictures(5))(predictor(heads=(), model=vilt_tiny))


def test_a_dual_encoder_is_measured_and_not_re_ranked():
    model = predictor(heads=("itc",), model=dual_tiny)
    assert 0 <= Retrieval(source=Pictures(7))(model)["t2i_r1"] <= 1
    with pytest.raises(UserError, match="never read each other"):
        Retrieval(source=Pictures(7), rerank_top=3)(model)
