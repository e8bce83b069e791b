"""RandAugment as ALBEF's official code has it (Cubuk et al. 2020; RECIPES A.4), on 8-bit RGB pictures.

Ten operations without colour changes; N are drawn with replacement, each is applied with probability one half; all
share the magnitude M of 10. Shears keep the top left corner, translations are in pixels whatever the size, borders
become grey 128: that is what the official OpenCV code does, and torchvision's does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mmkit.errors import UserError

FILL = (128, 128, 128)


def affine(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    """Output (x, y) takes input (ax + by + c, dx + ey + f), bilinear, grey outside."""
    matrix = (a, b, c, d, e, f)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """About the centre, counter-clockwise, grey outside."""
    return F.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR, fill=list(FILL))


def enhance(level: float) -> float:
    """The blending factor of brightness and sharpness: 1 leaves the picture as it is."""
    return 0.1 + 1.8 * level


OPERATIONS: Mapping[str, Callable[[Image.Image, float, float], Image.Image]] = {
    # (picture, level in 0..1, sign) -> picture
    "identity": lambda image, level, sign: image,
    "autocontrast": lambda image, level, sign: F.autocontrast(image),
    "equalize": lambda image, level, sign: F.equalize(image),
    "brightness": lambda image, level, sign: F.adjust_brightness(image, enhance(level)),
    "sharpness": lambda image, level, sign: F.adjust_sharpness(image, enhance(level)),
    "shear_x": lambda image, level, sign: affine(image, 1, -sign * 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level, sign: affine(image, 1, 0, 0, -sign * 0.3 * level, 1, 0),
    "translate_x": lambda image, level, sign: affine(image, 1, 0, -sign * 10 * level, 0, 1, 0),
    "translate_y": lambda image, level, sign: affine(image, 1, 0, 0, 0, 1, -sign * 10 * level),
    "rotate": lambda image, level, sign: rotate(image, sign * 30 * level),
}
NAMES = tuple(OPERATIONS)


class RandAugment:
    """``number`` operations at ``magnitude`` of 10, each with ``probability``."""

    def __init__(self, number: int = 2, magnitude: float = 7, probability: float = 0.5) -> None:
        if number < 0 or not 0 <= magnitude <= 10:
            raise UserError(f"randaugment=({number}, {magnitude}): number >= 0 and magnitude in 0..10 are needed")
        self.number, self.level, self.probability = number, magnitude / 10, probability

    def __call__(self, image: Image.Image, rng: Random) -> Image.Image:
        """RGB picture to RGB picture of the same size."""
        for name in rng.choices(NAMES, k=self.number):
            if rng.random() < self.probability:
                image = OPERATIONS[name](image, self.level, rng.choice((-1, 1)))
        return image
