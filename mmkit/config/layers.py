"""Rules by which each layer of an image tower learns more slowly than the one above it (BEiT: layer-wise decay)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from mmkit.config.experiment import Rule, mmkit_rules
from mmkit.errors import UserError


def layer_decay(
    depth: int, decay: float, *, tower: str = "model.image", last_norm: Literal["block", "top"] = "block"
) -> tuple[Rule, ...]:
    """``Optim.rules`` for a ViT of ``depth`` blocks under ``tower``: learning rate and weight decay of each parameter.

    Class token, positions and patches are layer 0, block i is layer i + 1, everything beyond the tower layer depth + 1;
    a rate is ``decay`` to the power of the layers above. The tower's last norm goes with the last block (timm), or with
    what is on top (MAE). Nothing of rank 1 decays, nor do class token and positions. A run whose tower has another
    depth is refused: too few blocks are a rule without a parameter, too many are taken by none.
    """
    if depth < 1 or not 0 < decay <= 1:
        raise UserError(
            f"layer_decay: depth={depth}, decay={decay}: at least one block, and a factor above 0, at most 1"
        )
    own = re.escape(tower)
    scales = [decay ** (depth + 1 - layer) for layer in range(depth + 2)]
    bottom, blocks = rf"^{own}\.(patch|first_norm)\.", [rf"^{own}\.blocks\.{i}\." for i in range(depth)]
    rules = [Rule(pattern=rf"^{own}\.(cls$|positions\.)", lr_scale=scales[0], weight_decay=0.0)]
    for pattern, scale in zip((bottom, *blocks), scales, strict=False):
        rules.append(Rule(pattern=pattern, lr_scale=scale, weight_decay=0.0, max_rank=1, optional=pattern == bottom))
        rules.append(Rule(pattern=pattern, lr_scale=scale))
    norm = Rule(
        pattern=rf"^{own}\.norm\.", lr_scale=scales[depth if last_norm == "block" else depth + 1], weight_decay=0.0
    )
    beyond = (replace(rule, pattern=rf"^(?!{own}\.).*?{rule.pattern}", optional=True) for rule in mmkit_rules())
    return (*rules, norm, *beyond)
