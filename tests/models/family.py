"""The dual encoders of open_clip at tiny random sizes, and our copies of them, for one process and two."""

from dataclasses import replace

import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from mmkit.convert.clip_config import told
from mmkit.convert.tables import clip as convert
from mmkit.convert.tables.table import read
from mmkit.heads.itc import ITC
from mmkit.heads.sigmoid import Sigmoid
from mmkit.models.sizes import dual as sizes_dual
from mmkit.task import Task
from mmkit.types import Batch
from tests.examples import VOCAB

LENGTH = 12
CONFIGS = {
    "clip": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": LENGTH, "vocab_size": VOCAB, "width": 16, "heads": 2, "layers": 3},
    },
    "siglip": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            "context_length": LENGTH, "vocab_size": VOCAB, "width": 16, "heads": 2, "layers": 2, "pool_type": "last",
            "no_causal_mask": True, "proj_bias": True, "norm_kwargs": {"eps": 1e-6},
        },
    },
}  # fmt: skip
CONFIGS["quick_clip"] = CONFIGS["clip"] | {"quick_gelu": True}


def theirs(kind: str, vocab: int = VOCAB) -> nn.Module:
    """An open_clip model with random weights, those of every size as large as makes a difference."""
    torch.manual_seed(0)
    config = CONFIGS[kind] | {"text_cfg": CONFIGS[kind]["text_cfg"] | {"vocab_size": vocab}}
    if kind == "siglip":
        model = CustomTextCLIP(**config, init_logit_bias=-10.0)
        # its own names choose only full sizes
        model.visual.trunk = timm.create_model(
            "vit_base_patch16_siglip_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0
        )
    else:
        model = CLIP(**config)
    for name, parameter in model.named_parameters():
        if "logit" not in name:
            nn.init.normal_(parameter, std=0.15)
    return model.eval()


def ours(kind: str, state) -> Task:
    """The same model as a task, its loss that of open_clip."""
    siglip = kind == "siglip"
    arguments = convert.arguments(state, replace(told(CONFIGS[kind], siglip), image_heads=4))
    model = (sizes_dual.siglip if siglip else sizes_dual.clip)(VOCAB, **arguments)
    heads = {"sigmoid": Sigmoid(model.spec, positives="pair")} if siglip else {}
    heads = heads or {"itc": ITC(model.spec, queue_size=0, positives="pair")}
    task = Task(model, heads, momentum=None).eval()
    loaded = read(convert.table(state), state)
    task.load_state_dict(loaded | {k: v for k, v in task.state_dict().items() if "queue" in k})
    return task


def pairs(size: int = 6) -> Batch:
    """Pictures, and texts of unequal length whose last real token has the highest id, as CLIP's end of text."""
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(2, VOCAB - 1, (size, LENGTH), generator=g)
    lengths = torch.randint(3, LENGTH + 1, (size,), generator=g)
    mask = torch.arange(LENGTH) < lengths[:, None]
    ids = ids.masked_fill(~mask, 0).scatter(1, lengths[:, None] - 1, VOCAB - 1)
    one = torch.zeros(size, dtype=torch.int64)  # all look alike: "pair" must not care
    return Batch(pixels=torch.randn(size, 3, 32, 32, generator=g), ids=ids, mask=mask, image_id=one, caption_id=one)
