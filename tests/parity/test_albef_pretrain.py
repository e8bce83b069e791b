"""Our pre-training step against the recorded one of the official ALBEF: every output, gradient, teacher and queue."""

import pytest
import torch

from mmkit.config import Optim, official_rules
from mmkit.convert import albef as official
from mmkit.convert.table import layer, read, same, write
from mmkit.train.optim import make_optimizer
from tests.parity.oracle import (
    OUTPUT,
    assert_close,
    batch_of,
    build,
    cases,
    compare_after_step,
    compare_embeddings,
    compare_gradients,
    drawn,
    load,
    load_pretrain,
    state_of,
    under,
)

STEPS = cases(lambda names: "out.loss_mlm" in names)
RUNS = cases(lambda names: "out.losses" in names)
pytestmark = pytest.mark.parity("ALBEF, pre-training", "the official code, recorded")


def step_of(path):
    meta, x = load(path)
    draw = drawn(x)
    task = build(meta, meta["alpha"], draw)
    load_pretrain(task, state_of(x))
    task.ema.update()  # the official forward begins with it
    return x, task, batch_of(x), draw


def trainable(task, state):
    tower = official.tower(official.parts_of(state), "", "model", "heads.")
    return [*tower, same("model.temperature.value", "temp"), *layer("heads.itm.classify", "itm_head")]


@pytest.mark.parametrize("path", STEPS, ids=lambda p: p.stem)
def test_outputs(path):
    x, task, batch, draw = step_of(path)
    out = task(batch, 0)
    f = task.features(batch, 0)
    names = {"itc": "loss_ita", "itm": "loss_itm", "mlm": "loss_mlm"}
    for head, name in names.items():
        assert_close(out.losses[head], x[f"out.{name}"], OUTPUT, name)
    assert_close(out.loss, x["out.loss"], OUTPUT, "loss")
    compare_embeddings(x, f)
    hidden = x["in.mlm_labels"] != -100
    mlm = task.heads["mlm"]
    assert_close(mlm.logits(f.masked, f.model.word_embeddings), x["out.mlm_logits"][hidden], OUTPUT, "mlm_logits")
    teacher_logits = f.twin(mlm).logits(f.teacher.masked, f.teacher.model.word_embeddings)
    assert_close(teacher_logits, x["out.logits_m"][hidden], OUTPUT, "logits_m")
    for ours, name in zip(draw.weights, ("weights_t2i", "weights_i2t"), strict=True):
        recorded = x[f"out.{name}"]
        assert_close(ours.softmax(-1), recorded / recorded.sum(1, keepdim=True), OUTPUT, name)


@pytest.mark.parametrize("path", STEPS, ids=lambda p: p.stem)
def test_gradients_teacher_and_queue(path):
    x, task, batch, _ = step_of(path)
    out = task(batch, 0)
    out.loss.backward()
    state = state_of(x)
    compare_gradients(x, task, trainable(task, state))
    task.ema.momentum = 1.0  # it was updated before the forward, as officially
    task.after_step([out.carry])
    compare_after_step(x, task, official.pretrain(state))


@pytest.mark.parametrize("path", [path for path in STEPS if under(load(path)[1], "step.")], ids=lambda p: p.stem)
def test_optimizer_step(path):
    meta, x = load(path)
    task = build(meta, meta["alpha"], None)
    state = state_of(x)
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
        assert_close(after[name], theirs, 1e-5, name)


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_several_steps(path):
    meta, x = load(path)
    draw = drawn(x)
    alphas = meta["alphas"]
    task = build({"alpha": 0.4, **meta}, lambda step: alphas[step], draw)
    load_pretrain(task, state_of(x))
    decayed = [p for p in task.parameters() if p.requires_grad and p.ndim != 1]
    plain = [p for p in task.parameters() if p.requires_grad and p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": meta["weight_decay"]}, {"params": plain, "weight_decay": 0.0}], meta["lr"]
    )
    for step in range(meta["steps"]):
        draw.prefix = f"step{step}.in."
        out = task(batch_of(x, draw.prefix), step)
        ours = torch.stack([out.losses[name] for name in ("mlm", "itc", "itm")])
        assert_close(ours, x["out.losses"][step], 2e-6, f"losses of step {step}")
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        task.after_step([out.carry])
        assert int(task.heads["itc"].queue.pushed) % meta["cfg"]["queue_size"] == meta["ptr_after"][step]
