"""Both stages against the recorded ones of the official ALBEF: outputs, gradients, teacher, and the file both ways."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import mmkit
from mmkit.cli import main
from mmkit.convert.layouts.layout import Choices
from mmkit.convert.tables.table import Entry, read, write
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.task import Task
from mmkit.train.init import initialise
from mmkit.types import Batch
from projects.nlvr2.head import Assigned, PairClassify, TextAssignment
from projects.nlvr2.layout import ASSIGNMENT, NLVR2, table_of
from projects.nlvr2.model import pair_albef
from tests.parity.compare import (
    OUTPUT,
    assert_close,
    compare_after_step,
    compare_distilled,
    compare_gradients,
)
from tests.parity.measure import assert_same_state
from tests.parity.oracle import cases, for_each, load, under

PAIRS = [path for path in cases(lambda names: "sd.cls_head.0.weight" in names) if "shared" in load(path)[0]]
ASSIGNMENTS = cases(lambda names: "sd.ta_head.weight" in names)
RECORDED = "the official code, recorded"
pytestmark = pytest.mark.parity("ALBEF, NLVR2", RECORDED)
of_assignment = pytest.mark.parity("ALBEF, text assignment", RECORDED)
EVERY = [
    *(pytest.param(path, id=path.stem) for path in PAIRS),
    *(pytest.param(path, id=path.stem, marks=of_assignment) for path in ASSIGNMENTS),
]


def model_of(meta, embed_dim=0):
    image, bert = meta["vit"], meta["bert"]
    return pair_albef(
        bert["vocab_size"], image_size=image["image"], max_tokens=bert["max_position_embeddings"], dropout=0.0,
        patch=image["patch"], image_depth=image["depth"], image_width=image["width"], image_heads=image["heads"],
        text_depth=bert["fusion_layer"], fusion_pairs=bert["num_hidden_layers"] - bert["fusion_layer"],
        text_width=bert["hidden_size"], text_heads=bert["num_attention_heads"],
        text_mlp_width=bert["intermediate_size"], embed_dim=embed_dim,
    )  # fmt: skip


def batch_of(x, pixels, **targets):
    rows = torch.arange(len(x["in.input_ids"]))
    mask = x["in.attention_mask"].bool()
    return Batch(
        pixels=pixels, ids=x["in.input_ids"], mask=mask, image_id=rows, caption_id=rows, targets=targets
    )  # fmt: skip


def nlvr2(path, alpha=None):
    meta, x = load(path)
    model = model_of(meta)
    alpha = meta["alpha"] if alpha is None else alpha
    task = Task(model, {"label": PairClassify(model.spec)}, momentum=meta["momentum"], alpha=alpha)
    state = under(x, "sd.")
    task.load_state_dict(read(table_of(state), state))
    task.train()
    left, right = x["in.image"].chunk(2)
    return x, task, batch_of(x, left, label=x["in.targets"], second=right)


@for_each(PAIRS, "sd.*", "in.*", "out.*", "eval.*")
def test_nlvr2_outputs(path):
    x, task, batch = nlvr2(path)
    task.ema.update()  # the official forward begins with it
    f = task.features(batch, 0)
    image = f.model.encode_image(x["in.image"])
    assert_close(image.x, x["out.image_embeds"], OUTPUT, "image_embeds")
    states = f.model.fuse(f.text, [f.model.pair_context(image)])
    assert_close(states.text.x[f.mask], x["out.last_hidden_state"][f.mask], OUTPUT, "last_hidden_state")
    compare_distilled(x, task, batch)


@for_each(PAIRS, "grad.*", "post.*")
def test_nlvr2_gradients_and_teacher(path):
    x, task, batch = nlvr2(path)
    task.ema.update()
    task(batch, 0).loss.backward()
    rows = table_of(under(x, "sd."))
    compare_gradients(x, task, rows)
    compare_after_step(x, task, rows)


@for_each(PAIRS, "nodistill.*")
def test_nlvr2_without_distillation(path):
    x, task, batch = nlvr2(path, alpha=0.0)
    assert_close(task(batch, 0).loss, x["nodistill.loss"], OUTPUT, "loss")


def assignment(path):
    meta, x = load(path)
    state = under(x, "sd.")
    model = model_of(meta, len(state["vision_proj.weight"]))

    def chosen(log_weights, noise, own):
        chosen.weights = log_weights
        valid = torch.ones(len(own), dtype=torch.bool)
        return Assigned(x["in.first_image_idx"], x["in.second_image_idx"], x["in.labels"], valid)

    task = Task(model, {"assignment": TextAssignment(model.spec, chosen)}, momentum=None)
    task.load_state_dict(read(table_of(state), state))
    task.train()
    return meta, x, task, batch_of(x, x["in.image"]), chosen


@of_assignment
@for_each(ASSIGNMENTS, "*")
def test_text_assignment(path):
    meta, x, task, batch, chosen = assignment(path)
    out, f = task(batch, 0), task.features(batch, 0)
    assert_close(out.loss, x["out.loss"], OUTPUT, "loss")
    assigned = chosen(None, None, f.own)
    assert_close(task.heads["assignment"].logits(f, assigned), x["out.pred"], OUTPUT, "pred")
    task(batch, 0)
    own = torch.eye(len(batch), dtype=torch.bool)
    assert_close(chosen.weights[~own], x["out.sim"][~own], OUTPUT, "sim")
    weights = x["out.weights"]
    assert_close(chosen.weights.softmax(1), weights / weights.sum(1, keepdim=True), OUTPUT, "weights")
    out.loss.backward()
    compare_gradients(x, task, table_of(under(x, "sd.")))
    without = {name for name, p in task.named_parameters() if p.grad is None}
    rows = {row.theirs[0]: row.ours for row in table_of(under(x, "sd.")) if isinstance(row, Entry)}
    assert without == {rows[name] for name in meta["params_without_grad"]}


@pytest.mark.parametrize("path", EVERY)
def test_a_file_goes_both_ways_bit_for_bit(path):
    state = under(load(path)[1], "sd.")
    layout, other = (ASSIGNMENT, NLVR2) if path in ASSIGNMENTS else (NLVR2, ASSIGNMENT)
    assert layout.fits(state)
    assert not other.fits(state)
    ours = read(table_of(state), state)
    assert_same_state(write(layout.back(ours), ours), state)


@pytest.mark.parametrize("path", EVERY)
def test_the_command_converts_a_file_and_writes_it_again(path, tmp_path):
    meta, x = load(path)
    state = under(x, "sd.")
    torch.save({"model": state, "epoch": 3}, tmp_path / "theirs.pth")
    words = (f"{a}{b}" for a in "abcdefghijklmnop" for b in "qrstuvwxyz")
    SentencePieceTokenizer.train(words, vocab_size=meta["bert"]["vocab_size"]).save(tmp_path / "words")
    layout = f"projects/nlvr2/layout.py:{'ASSIGNMENT' if path in ASSIGNMENTS else 'NLVR2'}"
    command = ["convert", layout, str(tmp_path / "theirs.pth"), str(tmp_path / "ours")]
    heads = ["--image-heads", str(meta["vit"]["heads"]), "--text-heads", str(meta["bert"]["num_attention_heads"])]
    assert main([*command, *heads, "--tokenizer", str(tmp_path / "words")]) == 0
    predictor = mmkit.load(tmp_path / "ours")
    assert predictor.transform == EvalTransform(size=meta["vit"]["image"])  # as published
    if path in PAIRS:
        left, right = x["in.image"].chunk(2)
        with predictor.inference():
            f = Features(predictor.model, batch_of(x, left, second=right))
            assert_close(predictor.heads["label"].predict(f), x["eval.prediction"], OUTPUT, "eval.prediction")
    assert main(["convert", layout, str(tmp_path / "ours"), str(tmp_path / "again.pth"), "--reverse"]) == 0
    assert_same_state(torch.load(tmp_path / "again.pth")["model"], state)


def test_the_files_beside_the_weights_say_how_pictures_are_read():
    """As for the other layouts of ALBEF, the mean, the filter and the size of the processor's file are obeyed."""
    meta, x = load(PAIRS[0])
    side = meta["vit"]["image"]
    given = {"image_mean": [0.5, 0.4, 0.3], "resample": 2, "size": {"height": side, "width": side}}
    choices = Choices(image_heads=2, text_heads=2, pictures={"preprocessor_config.json": given})
    transform = NLVR2.recipe(under(x, "sd."), choices).transform
    assert transform == EvalTransform(size=side, mean=(0.5, 0.4, 0.3), resample="bilinear")
    with pytest.raises(UserError, match=r"preprocessor_config\.json: crop_pct = 0\.9"):
        NLVR2.recipe(under(x, "sd."), replace(choices, pictures={"preprocessor_config.json": {"crop_pct": 0.9}}))


@pytest.mark.parametrize("path", ASSIGNMENTS, ids=lambda p: p.stem)
def test_the_teacher_begins_as_the_student_that_was_loaded(path, tmp_path):
    """Officially it begins as a network that nothing was loaded into."""
    meta, x = load(path)
    state = read(table_of(under(x, "sd.")), under(x, "sd."))
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "model.safetensors")
    model = model_of(meta)
    task = Task(model, {"label": PairClassify(model.spec)}, momentum=0.995)
    initialise(task, {"model": str(tmp_path)})
    teacher = dict(task.ema["model"].named_parameters())
    assert teacher.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[f"model.{name}"]), name
        assert torch.equal(parameter, teacher[name]), name


def test_a_file_whose_shared_matrices_differ_is_refused():
    state = under(load(PAIRS[0])[1], "sd.")
    name = "text_encoder.encoder.layer.9.crossattention.self.value.bias"
    state[name] = state[name] + 1
    with pytest.raises(UserError, match="should hold the same values"):
        table_of(state)
