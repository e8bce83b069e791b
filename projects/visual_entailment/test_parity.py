"""Visual entailment against the recorded one of the official ALBEF: outputs, gradients, teacher."""

import pytest
import torch

from mmkit.convert.tables.albef import table_of
from mmkit.convert.tables.table import read
from mmkit.heads.classify import Classify
from mmkit.task import Task
from mmkit.types import Batch
from projects.visual_entailment.data import CLASSES
from tests.parity.compare import (
    OUTPUT,
    assert_close,
    compare_after_step,
    compare_distilled,
    compare_gradients,
    model_of,
)
from tests.parity.oracle import cases, for_each, load, under

FILES = [path for path in cases(lambda names: "sd.cls_head.0.weight" in names) if "shared" not in load(path)[0]]
pytestmark = pytest.mark.parity("ALBEF, visual entailment", "the official code, recorded")


def task_of(path, alpha=None):
    meta, x = load(path)
    model = model_of(meta | {"cfg": {"embed_dim": 0}})
    heads = {"label": Classify(model.spec, CLASSES)}
    task = Task(model, heads, momentum=meta["momentum"], alpha=meta["alpha"] if alpha is None else alpha)
    state = under(x, "sd.")
    task.load_state_dict(read(table_of(state, "entailment"), state))
    task.train()
    rows = torch.arange(len(x["in.image"]))
    batch = Batch(
        pixels=x["in.image"], ids=x["in.input_ids"], mask=x["in.attention_mask"].bool(), image_id=rows,
        caption_id=rows, targets={"label": x["in.targets"]},
    )  # fmt: skip
    return x, task, batch


@for_each(FILES, "sd.*", "in.*", "out.*", "eval.*")
def test_outputs(path):
    x, task, batch = task_of(path)
    task.ema.update()  # the official forward begins with it
    f = task.features(batch, 0)
    assert_close(f.image.x, x["out.image_embeds"], OUTPUT, "image_embeds")
    assert_close(f.fused.text.x[f.mask], x["out.last_hidden_state"][f.mask], OUTPUT, "last_hidden_state")
    compare_distilled(x, task, batch)


@for_each(FILES, "grad.*", "post.*")
def test_gradients_and_teacher(path):
    x, task, batch = task_of(path)
    task.ema.update()
    task(batch, 0).loss.backward()
    rows = table_of(under(x, "sd."), "entailment")
    compare_gradients(x, task, rows)
    compare_after_step(x, task, rows)


@for_each(FILES, "nodistill.*")
def test_without_distillation(path):
    x, task, batch = task_of(path, alpha=0.0)
    assert_close(task(batch, 0).loss, x["nodistill.loss"], OUTPUT, "loss")
