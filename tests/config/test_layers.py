"""Layer-wise decay: each parameter's learning rate and weight decay are those of timm."""

import pytest
import timm
from timm.optim import param_groups_layer_decay

from mmkit.config import Optim, layer_decay
from mmkit.convert.tables import vit
from mmkit.convert.tables.table import Entry
from mmkit.errors import UserError
from mmkit.heads.image_classify import ImageClassify
from mmkit.models.sizes.vision import vision
from mmkit.task import Task
from mmkit.train.optim import make_optimizer


def ours(depth, last_norm="block", rules_depth=None):
    model = vision(image_size=16, patch=8, depth=depth, width=32, heads=2)
    task = Task(model, {"class": ImageClassify(model.spec, ("a", "b"))}, momentum=None)
    rules = layer_decay(rules_depth or depth, 0.65, last_norm=last_norm)
    optimizer = make_optimizer(task, Optim(weight_decay=0.05, rules=rules))
    names = {parameter: name for name, parameter in task.named_parameters()}
    return {
        names[p]: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_it_is_that_of_timm():
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=3, embed_dim=32, num_heads=2, num_classes=2
    )
    groups = param_groups_layer_decay(
        theirs, weight_decay=0.05, layer_decay=0.65, no_weight_decay_list=theirs.no_weight_decay()
    )
    names = {id(p): name for name, p in theirs.named_parameters()}
    wanted = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    found = ours(3)
    rows = [row for row in vit.tower("model.image", "", 3, (8, 8)) if isinstance(row, Entry)]
    pairs = {row.ours: row.theirs[0] for row in rows} | {
        f"heads.class.out.{x}": f"head.{x}" for x in ("weight", "bias")
    }
    assert pairs.keys() == found.keys()
    for name, other in pairs.items():
        assert found[name] == pytest.approx(wanted[other]), name


def test_the_last_norm_goes_with_the_top_as_mae_has_it():
    found = ours(2, "top")
    assert found["model.image.norm.weight"] == (1.0, 0.0)
    assert found["model.image.blocks.1.mlp.fc1.weight"] == (0.65, 0.05)
    assert found["model.image.patch.proj.weight"] == pytest.approx((0.65**3, 0.05))
    assert found["model.image.cls"] == pytest.approx((0.65**3, 0.0))


def test_a_tower_of_another_depth_is_refused():
    with pytest.raises(UserError, match=r"blocks\\\\.2.*takes no parameter"):
        ours(2, rules_depth=3)
    with pytest.raises(UserError, match=r"no rule takes model.image.blocks.2"):
        ours(3, rules_depth=2)
    for wrong in ({"depth": 0, "decay": 0.5}, {"depth": 2, "decay": 0.0}, {"depth": 2, "decay": 1.1}):
        with pytest.raises(UserError, match="layer_decay"):
            layer_decay(**wrong)
