"""Visual entailment against the recorded one of the official ALBEF: outputs, gradients, teacher."""

import pytest
import torch

from mmkit.convert.albef import entailment
from mmkit.convert.table import Entry, read, write
from mmkit.heads.classify import Classify
from mmkit.task import Task
from mmkit.types import Batch
from projects.visual_entailment.data import CLASSES
from tests.parity.oracle import GRADIENT, OUTPUT, assert_close, cases, load, model_of, under
from tests.parity.test_albef_pretrain import without_shift

FILES = [path for path in cases(lambda names: "sd.cls_head.0.weight" in names) if "shared" not in load(path)[0]]
pytestmark = pytest.mark.parity("ALBEF, visual entailment", "the official code, recorded")


def task_of(path, alpha=None):
    meta, x = load(path)
    model = model_of(meta | {"cfg": {"embed_dim": 0}})
    heads = {"label": Classify(model.spec, CLASSES)}
    task = Task(model, heads, momentum=meta["momentum"], alpha=meta["alpha"] if alpha is None else alpha)
    state = under(x, "sd.")
    task.load_state_dict(read(entailment(state), state))
    task.train()
    rows = torch.arange(len(x["in.image"]))
    batch = Batch(
        pixels=x["in.image"], ids=x["in.input_ids"], mask=x["in.attention_mask"].bool(), image_id=rows,
        caption_id=rows, targets={"label": x["in.targets"]},
    )  # fmt: skip
    return x, task, batch


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_outputs(path):
    x, task, batch = task_of(path)
    task.ema.update()  # the official forward begins with it
    f, head = task.features(batch, 0), task.heads["label"]
    assert_close(f.image.x, x["out.image_embeds"], OUTPUT, "image_embeds")
    assert_close(f.fused.x, x["out.last_hidden_state"], OUTPUT, "last_hidden_state")
    assert_close(head.predict(f), x["out.prediction"], OUTPUT, "prediction")
    assert_close(f.twin(head).predict(f.teacher), x["out.prediction_m"], OUTPUT, "prediction_m")
    assert_close(task(batch, 0).loss, x["out.loss"], OUTPUT, "loss")
    with torch.no_grad():
        task.eval()
        assert_close(head.predict(task.features(batch, 0)), x["eval.prediction"], OUTPUT, "eval.prediction")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_gradients_and_teacher(path):
    x, task, batch = task_of(path)
    task.ema.update()
    task(batch, 0).loss.backward()
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    rows = entailment(under(x, "sd."))
    ours = write([row for row in rows if isinstance(row, Entry) and row.ours in grads], grads)
    recorded = under(x, "grad.")
    assert set(recorded) == set(ours)
    for name, theirs in recorded.items():
        if (theirs := without_shift(name, theirs)) is not None:
            assert_close(without_shift(name, ours[name]), theirs, GRADIENT, name)
    after = write(rows, task.state_dict())
    for name, theirs in under(x, "post.").items():
        assert_close(after[name], theirs, OUTPUT, name, "teacher and queues")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_without_distillation(path):
    x, task, batch = task_of(path, alpha=0.0)
    assert_close(task(batch, 0).loss, x["nodistill.loss"], OUTPUT, "loss")
