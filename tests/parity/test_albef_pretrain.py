"""Our pre-training step against the recorded one of the official ALBEF: every output, gradient, teacher and queue."""

import pytest
import torch

from mmkit.config import Optim, official_rules
from mmkit.convert.tables import albef as official
from mmkit.convert.tables.table import layer, read, same, write
from mmkit.train.optim import make_optimizer
from tests.parity.compare import (
    OUTPUT,
    assert_close,
    batch_of,
    build,
    compare_after_run,
    compare_after_step,
    compare_contrast,
    compare_draws,
    compare_embeddings,
    compare_gradients,
    compare_matching,
    drawn,
    load_pretrain,
    watch,
)
from tests.parity.oracle import cases, for_each, load, under

STEPS = cases(lambda names: "out.loss_mlm" in names)
RUNS = cases(lambda names: "out.losses" in names)
pytestmark = pytest.mark.parity("ALBEF, pre-training", "the official code, recorded")


def step_of(path):
    meta, x = load(path)
    draw = drawn(x)
    task = build(meta, meta["alpha"], draw)
    load_pretrain(task, under(x, "sd."))
    task.ema.update()  # the official forward begins with it
    return x, task, batch_of(x), draw


def trainable(task, state):
    tower = official.tower(official.parts_of(state), "", "model", "heads.")
    return [*tower, same("model.temperature.value", "temp"), *layer("heads.itm.classify", "itm_head")]


@for_each(STEPS, "sd.*", "in.*", "out.*")
def test_outputs(path, monkeypatch):
    x, task, batch, draw = step_of(path)
    seen = watch(task, monkeypatch)
    out, f = task(batch, 0), task.features(batch, 0)
    compare_embeddings(x, f)
    assert_close(out.losses["itc"], x["out.loss_ita"], OUTPUT, "loss_ita")
    compare_contrast(x, seen, f, task.heads["itc"])
    compare_matching(x, seen, out.losses["itm"])
    compare_draws(x, draw.weights, torch.eye(len(batch), dtype=torch.bool))
    assert_close(out.losses["mlm"], x["out.loss_mlm"], OUTPUT, "loss_mlm")
    compare_words(x, batch, f, task.heads["mlm"], "mlm_logits")
    compare_words(x, batch, f.teacher, f.twin(task.heads["mlm"]), "logits_m")
    assert_close(out.loss, x["out.loss"], OUTPUT, "loss")


def compare_words(x, batch, f, mlm, name):
    """The vocabulary's logits at the hidden positions, as trained, and at all of them."""
    recorded, words = x[f"out.{name}"], f.model.word_embeddings
    assert_close(mlm.logits(f.masked, words), recorded[x["in.mlm_labels"] != -100], OUTPUT, name)
    every = f.model.fuse(f.model.encode_text(batch.masked.ids, batch.mask), [f.context]).text.x
    assert_close(mlm.logits(every[batch.mask], words), recorded[batch.mask], OUTPUT, f"{name} at all positions")


@for_each(STEPS, "grad.*", "post.*")
def test_gradients_teacher_and_queue(path):
    x, task, batch, _ = step_of(path)
    out = task(batch, 0)
    out.loss.backward()
    state = under(x, "sd.")
    compare_gradients(x, task, trainable(task, state))
    task.ema.momentum = 1.0  # it was updated before the forward, as officially
    task.after_step([out.carry])
    compare_after_step(x, task, official.table_of(state, "pretrain"))


@for_each([path for path in STEPS if under(load(path)[1], "step.")], "step.*")
def test_optimizer_step(path):
    meta, x = load(path)
    task = build(meta, meta["alpha"], None)
    state = under(x, "sd.")
    load_pretrain(task, state)
    groups = meta["optimizer"]["groups"]
    lr, betas, eps, decay = (groups[0][key] for key in ("lr", "betas", "eps", "weight_decay"))
    decay = max(decay, *(group["weight_decay"] for group in groups))
    optim = Optim(lr=lr, betas=tuple(betas), eps=eps, weight_decay=decay, rules=official_rules())
    optimizer = make_optimizer(task, optim)
    table = trainable(task, state)
    names = {id(p): name for name, p in task.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for group in groups:
        for row in table:
            if row.theirs[0] in group["names"]:
                assert decays[row.ours] == group["weight_decay"], row.ours
    recorded = under(x, "grad.")
    tied = {name: recorded[row.theirs[0]] for row in table for name in row.also}
    parameters = dict(task.named_parameters())
    for name, gradient in read(table, recorded | tied).items():
        parameters[name].grad = gradient
    optimizer.step()
    after = write(table, {name: p.detach() for name, p in parameters.items()})
    recorded = under(x, "step.")
    assert recorded.keys() == after.keys()
    for name, theirs in recorded.items():
        assert_close(after[name], theirs, OUTPUT, name, "after a step of AdamW")


@for_each(RUNS, "sd.*", "step*.in.*", "out.*", "final.*")
def test_several_steps(path):
    meta, x = load(path)
    draw = drawn(x)
    alphas = meta["alphas"]
    task = build({"alpha": 0.4, **meta}, lambda step: alphas[step], draw)
    load_pretrain(task, under(x, "sd."))
    task.ema.update()  # the official forward begins with it
    decayed = [p for p in task.parameters() if p.requires_grad and p.ndim != 1]
    plain = [p for p in task.parameters() if p.requires_grad and p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": meta["weight_decay"]}, {"params": plain, "weight_decay": 0.0}], meta["lr"]
    )
    for step in range(meta["steps"]):
        draw.prefix = f"step{step}.in."
        out = task(batch_of(x, draw.prefix), step)
        ours = torch.stack([out.losses[name] for name in ("mlm", "itc", "itm")])
        assert_close(ours, x["out.losses"][step], OUTPUT, f"losses of step {step}")
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        if step == meta["steps"] - 1:
            task.ema.momentum = 1.0  # what follows the last step, officially the next forward would begin with
        task.after_step([out.carry])
        assert int(task.heads["itc"].queue.pushed) % meta["cfg"]["queue_size"] == meta["ptr_after"][step]
    compare_after_run(x, task, official.table_of(under(x, "sd."), "pretrain"), meta["lr"])
