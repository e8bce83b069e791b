import pytest
import torch

from mmkit.evals.retrieval import Retrieval
from mmkit.inference import tokens
from mmkit.inference.tokens import HeldTokens
from mmkit.types import Tokens
from tests.evals.parts import Pictures, predictor


@pytest.mark.parametrize(("hold", "bytes_each", "exact"), [("auto", 4, True), ("float32", 4, True), ("half", 2, False)])
def test_what_is_held_and_what_comes_back(hold, bytes_each, exact):
    store, x = HeldTokens(5, hold), torch.randn(5, 7, 8)
    store.put(3, Tokens(x, torch.ones(5, 7, dtype=torch.bool)))
    back = store.take(3, "cpu")
    assert store.nbytes == 5 * 7 * 8 * bytes_each + 5 * 7
    assert back.x.dtype == torch.float32
    assert torch.equal(back.x, x) == exact
    torch.testing.assert_close(back.x, x, rtol=1e-3, atol=1e-3)
    assert list(store) == [3]


def test_coco_at_384_pixels_needs_half_of_float32():
    """One picture of a ViT-B/16 at 384 pixels; five thousand of these are 4.4 GB, and 1,000 stay exact."""
    x = torch.randn(1, 577, 768)
    many, few = HeldTokens(5000), HeldTokens(1000)
    many.put(0, Tokens(x))
    few.put(0, Tokens(x))
    assert 5000 * many.nbytes == pytest.approx(4.43e9, rel=0.01)
    assert torch.equal(few.take(0, "cpu").x, x)


def test_large_values_and_bf16_are_held_in_bfloat16():
    x = torch.tensor([[[1e6, 1.0]]])
    store = HeldTokens(1, "half")
    store.put(0, Tokens(x))
    assert store.take(0, "cpu").x.isfinite().all()
    rounded = HeldTokens(1, "half", bf16=True)
    rounded.put(0, Tokens(torch.randn(1, 2, 3).to(torch.bfloat16).float()))
    assert rounded.nbytes == 12


def test_retrieval_holds_half_when_told_and_says_how_much(monkeypatch):
    model, source = predictor(), Pictures(17)
    exact = Retrieval(source=source, rerank_top=4).evaluate(model)
    half = Retrieval(source=source, rerank_top=4, hold="half").evaluate(model)
    assert exact.held_bytes == 2 * half.held_bytes == 17 * 17 * 32 * 4
    assert half.metrics() == pytest.approx(exact.metrics(), abs=0.06)
    assert exact.to_json()["held_gib"] == exact.held_bytes / 2**30
    assert Retrieval(source=source).evaluate(model).held_bytes == 0
    monkeypatch.setattr(tokens, "FLOAT32_BYTES", 1)
    assert Retrieval(source=source, rerank_top=4).evaluate(model).held_bytes == half.held_bytes
