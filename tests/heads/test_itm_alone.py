"""Matching as the only objective, or the first to ask: its gradient reaches both towers."""

import torch

from mmkit.features import Features
from mmkit.heads.itm import ITM
from mmkit.models.sizes import albef_tiny
from mmkit.types import Batch


def test_gradients_reach_both_towers_when_negatives_are_drawn_first():
    torch.manual_seed(0)
    model = albef_tiny(50)
    batch = Batch(
        pixels=torch.randn(4, 3, 32, 32), ids=torch.randint(5, 50, (4, 6)), mask=torch.ones(4, 6, dtype=torch.bool),
        image_id=torch.arange(4), caption_id=torch.arange(4),
    )  # fmt: skip
    f = Features(model, batch)
    ITM(model.spec)(f).loss.backward()
    assert model.image.cls.grad.abs().sum() > 0
    assert model.text.embeddings.words.weight.grad.abs().sum() > 0
    assert f.image_embed.requires_grad  # for an objective that asks after it
