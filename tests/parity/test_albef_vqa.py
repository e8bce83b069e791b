"""VQA against the recorded one of the official ALBEF: states, answers' logits, loss, gradients, teacher, ranking."""

import pytest
import torch

from mmkit.convert.tables import albef as official
from mmkit.convert.tables.table import depth_of, read
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.base import Candidates
from mmkit.losses import distilled_cross_entropy
from mmkit.task import Task
from mmkit.types import Batch
from tests.parity.compare import OUTPUT, assert_close, compare_after_step, compare_gradients, model_of
from tests.parity.oracle import cases, for_each, load, under

FILES = cases(lambda names: "sd.text_decoder.cls.predictions.bias" in names)
pytestmark = pytest.mark.parity("ALBEF, VQA", "the official code, recorded")


def task_of(path, alpha=None):
    meta, x = load(path)
    state, bert = under(x, "sd."), meta["bert"]
    model = model_of(meta | {"cfg": {"embed_dim": 0}})
    head = AnswerDecoder(
        model.spec, depth=depth_of(state, "text_decoder.bert.encoder.layer."), heads=bert["num_attention_heads"],
        mlp_width=bert["intermediate_size"], max_tokens=bert["max_position_embeddings"], dropout=0.0,
        first_token_twice=True,
    )  # fmt: skip
    task = Task(model, {"answer": head}, momentum=meta["momentum"], alpha=meta["alpha"] if alpha is None else alpha)
    task.load_state_dict(read(official.table_of(state, "vqa"), state))
    task.train()
    return x, task


def batch_of(x):
    ids, real = x["in.answer_ids"], x["in.answer_mask"].bool()[:, 1:]
    rows = torch.arange(len(x["in.image"]))
    targets = {
        "answer_ids": ids[:, :-1], "answer_of": rows.repeat_interleave(x["in.k"]), "answer_weight": x["in.weights"],
        "answer_index": real.flatten().nonzero().flatten(), "answer_labels": ids[:, 1:][real],
    }  # fmt: skip
    return Batch(
        pixels=x["in.image"], ids=x["in.question_ids"], mask=x["in.question_mask"].bool(), image_id=rows,
        caption_id=rows, targets=targets,
    )  # fmt: skip


@for_each(FILES, "sd.*", "in.*", "out.*")
def test_outputs(path):
    x, task = task_of(path)
    task.ema.update()  # the official forward begins with it
    batch = batch_of(x)
    f, head = task.features(batch, 0), task.heads["answer"]
    real = batch.mask
    assert_close(f.fused.text.x[real], x["out.question_states"][real], OUTPUT, "question_states")
    assert_close(f.teacher.fused.text.x[real], x["out.question_states_m"][real], OUTPUT, "question_states_m")
    ids, of, read_at, labels = (batch.targets[f"answer_{name}"] for name in ("ids", "of", "index", "labels"))
    logits = head.token_logits(f.fused, ids, of, read_at)
    assert_close(logits, x["out.decoder_logits"][:, :-1].flatten(0, 1)[read_at], OUTPUT, "decoder_logits")
    logits_m = f.twin(head).token_logits(f.teacher.fused, ids, of, read_at)
    assert_close(logits_m, x["out.logits_m"].flatten(0, 1)[read_at], OUTPUT, "logits_m")
    for name, alpha in (("answer_loss", f.alpha), ("loss_distill", 1.0)):
        loss = distilled_cross_entropy(logits, labels, logits_m, alpha)
        loss = torch.zeros(len(ids)).index_add(0, read_at // ids.shape[1], loss)
        assert_close(loss, x[f"out.{name}"], OUTPUT, name, "loss")
    assert_close(task(batch, 0).loss, x["out.loss"], OUTPUT, "loss")


@for_each(FILES, "grad.*", "post.*")
def test_gradients_and_teacher(path):
    x, task = task_of(path)
    task.ema.update()
    task(batch_of(x), 0).loss.backward()
    rows = official.table_of(under(x, "sd."), "vqa")
    compare_gradients(x, task, rows)
    compare_after_step(x, task, rows)


@for_each(FILES, "nodistill.*")
def test_without_distillation(path):
    x, task = task_of(path, alpha=0.0)
    assert_close(task(batch_of(x), 0).loss, x["nodistill.loss"], OUTPUT, "loss")


@for_each(FILES, "rank.*")
@torch.no_grad()
def test_ranking_of_answers(path, monkeypatch):
    x, task = task_of(path)
    head = task.eval().heads["answer"]
    mask = x["rank.answer_mask"].bool()
    answers = Candidates(x["rank.answer_ids"], mask)
    head.top = int(x["rank.k"])
    fused = task.features(batch_of(x), 0).fused
    seen, logits_of = [], head.vocabulary.logits
    monkeypatch.setattr(head.vocabulary, "logits", lambda *args: seen.append(logits_of(*args)) or seen[-1])
    chosen, probability = head.rank(fused, answers, head.top)
    monkeypatch.undo()
    assert torch.equal(chosen, x["rank.topk_ids"])
    assert_close(probability, x["rank.topk_probs"], OUTPUT, "topk_probs")
    compare_scores(x, seen[0], head, fused, answers)
    head.first_token_twice = False  # our way
    found = head.rank(fused, answers, head.top)[1].log()
    size, k = found.shape
    expected = -x["rank.answer_loss"].view(size, k).sort(dim=1).values
    assert_close(found, expected.log_softmax(1), OUTPUT, "log-probabilities")


def compare_scores(x, first_logits, head, fused, answers):
    """What the ranking is made of: the first tokens' probabilities, the whole answers', their sum and its order."""
    assert_close(first_logits, x["rank.first_logits"], OUTPUT, "first_logits")
    first = first_logits.log_softmax(-1)[:, answers.ids[:, 1]]
    # as logarithms: relative to small probabilities, what logits differ by would be enlarged
    assert_close(first, x["rank.prob_first_token"].log(), OUTPUT, "prob_first_token")
    order = x["rank.rerank_id"]
    read_whole = torch.empty_like(order).scatter(1, order, x["rank.topk_ids"])  # before they were ranked
    whole = head._log_probability(
        head.decoder.context(fused.text), answers.ids[read_whole], answers.mask[read_whole][:, :, 1:]
    )
    assert_close(-whole.flatten()[:, None], x["rank.answer_loss"], OUTPUT, "answer_loss", "loss")
    first = first.gather(1, read_whole)
    assert_close(torch.stack([first.flatten(), whole.flatten()], 1), x["rank.log_probs"], OUTPUT, "log_probs")
    assert_close(first + whole, x["rank.log_probs_sum"], OUTPUT, "log_probs_sum")
    assert torch.equal((first + whole).argsort(1, descending=True), order)
