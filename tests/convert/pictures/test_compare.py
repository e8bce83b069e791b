"""A run that begins with a checkpoint whose pictures were read otherwise says so, with both values."""

import json

import pytest
import timm
import torch
import transformers

from mmkit.convert.pictures.compare import differences
from mmkit.convert.read_file import read_checkpoint
from mmkit.data.images.transforms import CLIP_MEAN, CLIP_STD, Blank, EvalTransform
from mmkit.data.images.variable_size import KeepShape
from mmkit.train.init import initialise
from tests.train.test_init import task

OURS = EvalTransform(size=32)
SMALL = {"size": {"height": 32, "width": 32}}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("deit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path / "pytorch_model.bin"


def says(weights, transform=OURS, source=""):
    return differences(read_checkpoint(weights), source, transform)


def test_of_transformers(weights, caplog):
    transformers.ViTImageProcessorPil(**SMALL).save_pretrained(weights.parent)
    mean = "its mean is (0.5, 0.5, 0.5) and the run's (0.4815, 0.4578, 0.4082)"
    std = "its std is (0.5, 0.5, 0.5) and the run's (0.2686, 0.2613, 0.2758)"
    assert says(weights) == says(weights, Blank(OURS)) == [mean, std]
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert says(weights, EvalTransform(size=32, **half)) == []
    for last in (0.502, 0.498):  # of one colour alone
        (line,) = says(weights, EvalTransform(size=32, mean=(0.5, 0.5, last), std=(0.5,) * 3))
        assert line == f"its mean is (0.5, 0.5, 0.5) and the run's (0.5, 0.5, {last})"
    assert says(weights, EvalTransform(size=(32, 40), **half)) == [
        "its pictures are 32 x 32 pixels and the run's 32 x 40"
    ]
    assert says(weights, EvalTransform(size=32, factor=1 / 127.5, mean=(1.0,) * 3, std=(1.0,) * 3)) == []
    initialise(task(), {"image": str(weights)}, OURS)
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage() for record in told] == [
        f"init.image from {weights}: {line}; see data.transform" for line in (mean, std)
    ]


def test_of_open_clip_and_of_vilt(weights):
    said = {"preprocess_cfg": {"size": 40, "mean": list(CLIP_MEAN), "std": [0.1, 0.2, 0.3]}}
    (weights.parent / "open_clip_config.json").write_text(json.dumps(said))
    assert says(weights) == [
        "its std is (0.1, 0.2, 0.3) and the run's (0.2686, 0.2613, 0.2758)",
        "its pictures are 40 x 40 pixels and the run's 32 x 32",
    ]
    transformers.ViltImageProcessorPil(size={"shortest_edge": 64}).save_pretrained(weights.parent)
    assert says(weights, KeepShape(size=64)) == []
    assert says(weights, KeepShape(size=32)) == ["its pictures are 64 x 64 pixels and the run's 32 x 32"]


def test_what_is_cut_from_the_middle_is_what_is_seen(weights):
    said = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 32}
    (weights.parent / "preprocessor_config.json").write_text(json.dumps(said))
    assert says(weights) == []
    assert says(weights, EvalTransform(size=40)) == ["its pictures are 32 x 32 pixels and the run's 40 x 40"]


def test_of_timm(weights):
    cfg = {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "input_size": [3, 32, 48]}
    (weights.parent / "config.json").write_text(json.dumps({"architecture": "vit", "pretrained_cfg": cfg}))
    assert says(weights) == ["its pictures are 32 x 48 pixels and the run's 32 x 32"]
    (weights.parent / "config.json").unlink()
    assert says(weights) == []
    assert says(weights, source="timm:vit_base_patch16_224.augreg_in21k")[0].startswith("its mean is (0.5, 0.5, 0.5)")


def test_what_says_nothing_or_cannot_be_read(weights):
    assert says(weights) == []
    (weights.parent / "preprocessor_config.json").write_text(json.dumps({"crop_pct": 0.9}))
    assert "crop_pct = 0.9" in says(weights)[0]
    assert says(weights, str) == []
