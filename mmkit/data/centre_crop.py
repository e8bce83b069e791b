"""Pictures as CLIP reads them: the shorter side to the wanted size, then the square in the middle.

Radford et al. 2021, the released code; also most towers that were trained on ImageNet. What lies outside of the square
is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from mmkit.data.image_ops import EvalTransform, to_pixels
from mmkit.data.size import height_width


@dataclass(frozen=True, kw_only=True)
class CentreCrop(EvalTransform):
    """Bicubic, keeping the shape, until the size is covered; then its middle. (PIL RGB) -> (3, h, w) float32."""

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture to (3, h, w) float32, normalised."""
        height, width = height_width(self.size)
        if image.width * height <= image.height * width:
            wide, high = width, max(height, int(width * image.height / image.width))
        else:
            wide, high = max(width, int(height * image.width / image.height)), height
        if image.size != (wide, high):
            image = image.resize((wide, high), Image.Resampling.BICUBIC)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return to_pixels(image.crop((left, top, left + width, top + height)), self.mean, self.std)
