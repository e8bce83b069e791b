"""VQA against the recorded one of the official ALBEF: states, answers' logits, loss, gradients, teacher, ranking."""

import pytest
import torch

from mmkit.convert import albef as official
from mmkit.convert.table import depth_of, read
from mmkit.heads.answer_decoder import AnswerDecoder, Candidates
from mmkit.task import Task
from mmkit.types import Batch
from tests.parity.oracle import (
    OUTPUT,
    assert_close,
    cases,
    compare_after_step,
    compare_gradients,
    load,
    model_of,
    under,
)

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
    task.load_state_dict(read(official.vqa(state), state))
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_outputs(path):
    x, task = task_of(path)
    task.ema.update()  # the official forward begins with it
    batch = batch_of(x)
    f, head = task.features(batch, 0), task.heads["answer"]
    real = batch.mask
    assert_close(f.fused.x[real], x["out.question_states"][real], OUTPUT, "question_states")
    assert_close(f.teacher.fused.x[real], x["out.question_states_m"][real], OUTPUT, "question_states_m")
    chosen = [batch.targets[f"answer_{name}"] for name in ("ids", "of", "index")]
    read_at = chosen[2]
    logits = x["out.decoder_logits"][:, :-1].flatten(0, 1)[read_at]
    assert_close(head.token_logits(f.fused, *chosen), logits, OUTPUT, "decoder_logits")
    logits = x["out.logits_m"].flatten(0, 1)[read_at]
    assert_close(f.twin(head).token_logits(f.teacher.fused, *chosen), logits, OUTPUT, "logits_m")
    assert_close(task(batch, 0).loss, x["out.loss"], OUTPUT, "loss", "loss")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_gradients_and_teacher(path):
    x, task = task_of(path)
    task.ema.update()
    task(batch_of(x), 0).loss.backward()
    rows = official.vqa(under(x, "sd."))
    compare_gradients(x, task, rows)
    compare_after_step(x, task, rows)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_without_distillation(path):
    x, task = task_of(path, alpha=0.0)
    assert_close(task(batch_of(x), 0).loss, x["nodistill.loss"], OUTPUT, "loss", "loss")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@torch.no_grad()
def test_ranking_of_answers(path):
    x, task = task_of(path)
    head = task.eval().heads["answer"]
    mask = x["rank.answer_mask"].bool()
    answers = Candidates(tuple(map(str, range(len(mask)))), x["rank.answer_ids"], mask[:, 1:])
    head.top = int(x["rank.k"])
    chosen, probability = head.rank(task.features(batch_of(x), 0).fused, answers, head.top)
    assert torch.equal(chosen, x["rank.topk_ids"])
    assert_close(probability, x["rank.topk_probs"], OUTPUT, "topk_probs")
    head.first_token_twice = False  # our way
    found = head.rank(task.features(batch_of(x), 0).fused, answers, head.top)[1].log()
    size, k = found.shape
    expected = -x["rank.answer_loss"].view(size, k).sort(dim=1).values
    assert_close(found, expected.log_softmax(1), OUTPUT, "log-probabilities")
