"""Families of timm at the sizes of a test: their own names, with fewer and narrower layers."""

import pytest
import timm

from mmkit.encoders.backbone.by_name import backbone

NARROW = {"embed_dim": 16, "depth": 2, "num_heads": 2}
STAGES = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}
TINY = {
    "vit_tiny_patch16_224": NARROW, "deit_tiny_distilled_patch16_224": NARROW, "beit_base_patch16_224": NARROW,
    "vit_small_patch14_reg4_dinov2": NARROW, "vit_medium_patch16_reg4_gap_256": NARROW,
    "swin_tiny_patch4_window7_224": STAGES, "swinv2_tiny_window8_256": STAGES, "mobilenetv3_small_050": {},
    "test_convnext": {}, "test_resnet": {}, "test_efficientnet": {}, "test_maxvit": {}, "test_mambaout": {},
}  # fmt: skip
REAL = timm.create_model


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """timm makes small networks of these names."""
    monkeypatch.setattr(timm, "create_model", lambda name, **more: REAL(name, **TINY.get(name, {}), **more))


def tower(name, size, **more):
    """The tower in evaluation, its weights as large as makes a difference."""
    made = backbone(name if ":" in name else f"timm:{name}", size, **more)
    return made.eval()
