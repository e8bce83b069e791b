"""Models of a few thousand parameters: real parts at sizes that a test can wait for."""

from functools import partial

from mmkit.models.sizes.albef import albef
from mmkit.models.sizes.dual import clip, lit, siglip
from mmkit.models.sizes.vilt import vilt
from mmkit.models.sizes.vision import vision

PICTURES = {"image_size": 32, "patch": 8}
TOWERS = {"image_depth": 2, "image_width": 32, "image_heads": 2, "text_width": 32, "text_heads": 2}

albef_tiny = partial(
    albef, **PICTURES, **TOWERS, max_tokens=16, text_depth=1, fusion_depth=1, embed_dim=16, dropout=0.0
)
dual_tiny = partial(clip, **PICTURES, **TOWERS, max_tokens=16, text_depth=2, embed_dim=16, activation="gelu")
siglip_tiny = partial(siglip, **PICTURES, **TOWERS, max_tokens=16, text_depth=2)
lit_tiny = partial(lit, **PICTURES, **TOWERS, max_tokens=16, text_depth=2, embed_dim=16, dropout=0.0)
vision_tiny = partial(vision, **PICTURES, depth=2, width=32, heads=2)
vilt_tiny = partial(vilt, **PICTURES, max_tokens=16, depth=2, width=32, heads=2, dropout=0.0)
