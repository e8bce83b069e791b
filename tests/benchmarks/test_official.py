"""The step that ours is measured against is the official one: losses, gradients, teacher and queue are the recorded."""

import pytest
import torch

from benchmarks.official import Draws, OfficialALBEF, Sizes, choose_by_row, hide, optimizer_of
from tests.parity.compare import OUTPUT, assert_close
from tests.parity.oracle import cases, load, under

STEPS = cases(lambda names: "out.loss_mlm" in names)
RUNS = cases(lambda names: "out.losses" in names)


def build(meta, x):
    """The official model of a recording with its weights, and what it will be given in place of draws."""
    vit, bert, cfg = meta["vit"], meta["bert"], meta["cfg"]
    sizes = Sizes(
        vocab=bert["vocab_size"], image=vit["image"], patch=vit["patch"], image_depth=vit["depth"],
        image_width=vit["width"], image_heads=vit["heads"], layers=bert["num_hidden_layers"],
        fusion_layer=bert["fusion_layer"], width=bert["hidden_size"], heads=bert["num_attention_heads"],
        hidden=bert["intermediate_size"], positions=bert["max_position_embeddings"], embed=cfg["embed_dim"],
        queue=cfg["queue_size"], dropout=0.0,
    )  # fmt: skip
    chosen: list[list[int]] = []
    model = OfficialALBEF(sizes, lambda weights: chosen.pop(0), cfg["momentum"])
    model.load_state_dict(under(x, "sd."))
    return model.train(), chosen


def losses_of(model, chosen, x, prefix, alpha):
    inputs = under(x, prefix)
    chosen += [inputs["neg_image_idx"].tolist(), inputs["neg_text_idx"].tolist()]
    masked = inputs["mlm_input_ids"], inputs["mlm_labels"]
    return model(inputs["image"], inputs["input_ids"], inputs["attention_mask"], masked, alpha)


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_a_step_is_the_recorded_one(path):
    meta, x = load(path)
    model, chosen = build(meta, x)
    found = losses_of(model, chosen, x, "in.", meta["alpha"])
    for loss, name in zip(found, ("mlm", "ita", "itm"), strict=True):
        assert_close(loss, x[f"out.loss_{name}"], OUTPUT, f"loss_{name}")
    state = model.state_dict()
    for name, theirs in under(x, "post.").items():
        assert_close(state[name].float(), theirs.float(), OUTPUT, name)
    sum(found).backward()
    for name, theirs in under(x, "grad.").items():
        if not name.endswith((".self.key.bias", "attn.qkv.bias")):  # which are 0 but for rounding
            assert_close(model.get_parameter(name).grad, theirs, 2e-4, name)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_several_steps_are_the_recorded_ones(path):
    meta, x = load(path)
    model, chosen = build(meta, x)
    optimizer = optimizer_of(model, meta["lr"], meta["weight_decay"])
    for step, alpha in enumerate(meta["alphas"]):
        optimizer.zero_grad()
        found = losses_of(model, chosen, x, f"step{step}.in.", alpha)
        assert_close(torch.stack(found), x["out.losses"][step], OUTPUT, f"losses of step {step}")
        assert int(model.queue_ptr) == meta["ptr_after"][step]
        sum(found).backward()
        optimizer.step()


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_words_are_hidden_as_recorded(path):
    meta, x = load(path)
    special, draws = meta["special_ids"], under(x, "draw.")
    drawn = Draws(*(draws[f"bernoulli_{name}"] for name in ("select", "replace", "random")), draws["randint_words"])
    kept = special["pad"], special["cls"]
    ids, labels = hide(x["in.input_ids"], drawn, special["mask"], kept)
    assert torch.equal(ids, x["in.mlm_input_ids"])
    assert torch.equal(labels, x["in.mlm_labels"])


def test_a_negative_is_drawn_in_proportion_to_its_weight():
    torch.manual_seed(0)
    weights = torch.tensor([[0.0, 3.0, 1.0]]).expand(2000, -1)
    counts = torch.bincount(torch.tensor(choose_by_row(weights)), minlength=3)
    assert counts[0] == 0
    assert 1400 < counts[1] < 1600
