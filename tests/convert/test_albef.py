"""Official ALBEF states go in and come out with the same keys, shapes and bits; what does not fit is named."""

import pytest
import torch

from mmkit.convert.tables import albef
from mmkit.convert.tables.table import read, write
from mmkit.errors import UserError
from tests.parity.measure import assert_same_state as assert_same
from tests.parity.oracle import cases, load, under

PRETRAIN = cases(lambda names: "sd.text_encoder.cls.predictions.bias" in names)
RETRIEVAL = cases(lambda names: "sd.idx_queue" in names)
VQA = cases(lambda names: "sd.text_decoder.cls.predictions.bias" in names)
ENTAILMENT = [path for path in cases(lambda names: "sd.cls_head.0.weight" in names) if "shared" not in load(path)[0]]
KINDS = {
    "pretrain": (PRETRAIN, "ALBEF, pre-training"),
    "retrieval": (RETRIEVAL, "ALBEF, retrieval"),
    "vqa": (VQA, "ALBEF, VQA"),
    "entailment": (ENTAILMENT, "ALBEF, visual entailment"),
}
LAYOUTS = [
    pytest.param(path, kind, id=path.stem, marks=pytest.mark.parity(layout, "the official code, recorded"))
    for kind, (paths, layout) in KINDS.items() for path in paths
]  # fmt: skip


def without(state, *parts):
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(("path", "kind"), LAYOUTS)
def test_there_and_back(path, kind):
    state = under(load(path)[1], "sd.")
    stripped = without(state, "position_ids")
    student = without(stripped, "_m.", "queue")
    for given in (state, stripped, student):
        rows = albef.table_of(given, kind)
        assert_same(write(rows, read(rows, given)), given)
    meta = load(path)[0]["vit"]
    ours = read(albef.table_of(state, kind), state)
    rows = albef.table(albef.parts_of_ours(ours, (meta["patch"], meta["patch"]), kind))
    assert_same(write(rows, ours), state)  # by a table that knows our state alone


def test_what_does_not_fit_is_named():
    state = under(load(PRETRAIN[0])[1], "sd.")
    with pytest.raises(UserError, match=r"unknown .*extra"):
        read(albef.table_of(state, "pretrain"), state | {"extra": torch.zeros(1)})
    lacking = without(state, "text_encoder.bert.encoder.layer.1.output.dense.weight")
    with pytest.raises(UserError, match=r"missing text_encoder.bert.encoder.layer.1.output.dense.weight"):
        read(albef.table_of(lacking, "pretrain"), lacking)
    untied = state | {"text_encoder.cls.predictions.decoder.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="same values"):
        read(albef.table_of(untied, "pretrain"), untied)
    with pytest.raises(UserError, match="vocabulary head"):
        albef.table_of(without(state, ".cls.predictions"), "pretrain")
    with pytest.raises(UserError, match="not an ALBEF"):
        albef.parts_of({"conv1.weight": torch.zeros(1)})


def test_a_queue_without_columns_is_no_queue():
    state = under(load(PRETRAIN[0])[1], "sd.")
    width = state["image_queue"].shape[0]
    empty = {"image_queue": torch.zeros(width, 0), "text_queue": torch.zeros(width, 0)}
    ours = read(albef.table_of(state | empty, "pretrain"), state | empty)
    assert_same(ours, read(albef.table_of(bare := without(state, "queue"), "pretrain"), bare))
    assert not any("queue" in name for name in ours)
