"""Retrieval fine-tuning and its evaluation against the recorded ones of the official ALBEF.

Several rows show one picture, which are positives of one another; equal captions of different pictures are not.
"""

import numpy as np
import pytest
import torch

from mmkit.convert.tables import albef as official
from mmkit.convert.tables.table import read
from mmkit.evals.recall import KS, Relevance, places, top_k
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.inference.predictor import Predictor, TokenBank
from mmkit.task import Task
from mmkit.types import Batch, Tokens
from tests.parity.compare import (
    GRADIENT,
    OUTPUT,
    assert_close,
    compare_after_step,
    compare_contrast,
    compare_draws,
    compare_embeddings,
    compare_gradients,
    compare_matching,
    drawn,
    gradients_of,
    model_of,
    watch,
)
from tests.parity.oracle import cases, for_each, load, under

FILES = cases(lambda names: "out.sim_targets" in names and "in.idx" in names)
pytestmark = pytest.mark.parity("ALBEF, retrieval", "the official code, recorded")


def task_of(path, alpha=None):
    meta, x = load(path)
    model, draw = model_of(meta), drawn(x)
    heads = {
        "itc": ITC(model.spec, meta["cfg"]["queue_size"], positives="image"),
        "itm": ITM(model.spec, avoid="image", draw=draw),
    }
    task = Task(model, heads, momentum=meta["cfg"]["momentum"], alpha=meta["alpha"] if alpha is None else alpha)
    state = under(x, "sd.")
    rows = official.table_of(state, "retrieval")
    task.load_state_dict(read(rows, state))
    task.train()
    return meta, x, task, draw, rows


def batch_of(x):
    rows = torch.arange(len(x["in.image"]))
    return Batch(
        pixels=x["in.image"], ids=x["in.input_ids"], mask=x["in.attention_mask"].bool(), image_id=x["in.idx"],
        caption_id=rows % 2,  # equal captions under other pictures change nothing here
    )  # fmt: skip


@for_each(FILES, "sd.*", "in.*", "out.*")
def test_outputs(path, monkeypatch):
    _, x, task, draw, _ = task_of(path)
    task.ema.update()  # the official forward begins with it
    seen, batch = watch(task, monkeypatch), batch_of(x)
    out, f = task(batch, 0), task.features(batch, 0)
    compare_embeddings(x, f)
    assert_close(out.losses["itc"], x["out.loss_ita"], OUTPUT, "loss_ita")
    compare_contrast(x, seen, f, task.heads["itc"])
    hard = task.heads["itc"]._hard_targets(f)
    assert_close(hard / hard.sum(1, keepdim=True), x["out.sim_targets"], OUTPUT, "sim_targets")
    compare_matching(x, seen, out.losses["itm"])
    compare_draws(x, draw.weights, batch.image_id[:, None] == batch.image_id)
    assert_close(out.loss, x["out.loss"], OUTPUT, "loss")


@for_each(FILES, "grad.*", "post.*")
def test_gradients_teacher_and_queue(path):
    _, x, task, _, rows = task_of(path)
    task.ema.update()
    out = task(batch_of(x), 0)
    out.loss.backward()
    compare_gradients(x, task, rows)
    task.ema.momentum = 1.0  # it was updated before the forward, as officially
    task.after_step([out.carry])
    compare_after_step(x, task, rows)


@for_each(FILES, "nodistill.*")
def test_without_distillation(path):
    _, x, task, _, rows = task_of(path, alpha=0.0)
    task.ema.update()
    out = task(batch_of(x), 0)
    out.loss.backward()
    assert_close(out.losses["itc"], x["nodistill.loss_ita"], OUTPUT, "loss_ita")
    assert_close(out.losses["itm"], x["nodistill.loss_itm"], OUTPUT, "loss_itm")
    grads = gradients_of(task, rows)
    for name, theirs in under(x, "nodistill.grad.").items():
        assert_close(grads[name], theirs, GRADIENT, name)


@for_each(FILES, "eval.*")
@torch.no_grad()
def test_evaluation(path):
    meta, x, task, _, _ = task_of(path)
    predictor = Predictor(task.model, task.heads, None, None, max_tokens=x["eval.input_ids"].shape[1])
    task.eval()
    image = task.model.encode_image(x["eval.image"])
    text = task.model.encode_text(x["eval.input_ids"], x["eval.attention_mask"].bool())
    similarity = task.model.embed_image(image) @ task.model.embed_text(text).T
    bank = TokenBank([text])
    for name, official_metrics in meta["itm_eval"].items():
        k = int(name.removeprefix("k"))
        scores = {}
        for way, sims in (("i2t", similarity), ("t2i", similarity.T)):
            chosen = top_k(sims, k)
            query = torch.arange(len(sims))[:, None].expand_as(chosen)
            pairs = torch.stack([query, chosen] if way == "i2t" else [chosen, query], -1).flatten(0, 1)
            found = predictor.match_pairs(Tokens(image.x), bank, pairs, score="match_logit")
            scores[way] = torch.full_like(sims, -100.0).scatter(1, chosen, found.view_as(chosen))
            recorded = x[f"eval.{name}.scores_{way}"]
            assert ((scores[way] == -100) == (recorded == -100)).all()
            real = recorded != -100
            assert_close(scores[way][real], recorded[real], OUTPUT, f"{name}.{way}")
        assert_same_metrics(scores, meta["eval_layout"]["captions_per_image"], official_metrics)


def assert_same_metrics(scores, per_image, recorded):
    images, texts = scores["i2t"].shape
    image_of = [j // per_image for j in range(texts)]
    relevant = {
        "i2t": Relevance.of([[j for j in range(texts) if image_of[j] == i] for i in range(images)], texts),
        "t2i": Relevance.of([[i] for i in image_of], images),
    }
    means = []
    for way, short in (("i2t", "txt"), ("t2i", "img")):
        mask = relevant[way].mask(range(len(scores[way])))
        # of equal scores the official code puts the last first
        rank = places(scores[way].flip(1), mask.flip(1))[:, 0]
        recall = {k: (rank < k).double().mean().item() for k in KS}
        for k, value in recall.items():
            assert 100 * value == pytest.approx(recorded[f"{short}_r{k}"])
        means.append(100 * np.mean(list(recall.values())))
    assert np.mean(means) == pytest.approx(recorded["r_mean"])
