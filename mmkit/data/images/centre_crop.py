"""Pictures as CLIP reads them: the shorter side to the wanted size, then the square in the middle.

Radford et al. 2021, the released code; also most towers that were trained on ImageNet. What lies outside of the square
is not seen. The further fields are what published preprocessing differs in (``convert/pictures/read.py`` reads it): a
size before the crop, a picture that is shown whole with a border, pixels that no whole patch covers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from PIL import Image

from mmkit.data.images.resizing import Fit, resized_part, whole_size
from mmkit.data.images.size import Size, height_width
from mmkit.data.images.transforms import EvalTransform, fitting, to_pixels
from mmkit.data.images.view import View, shifted
from mmkit.errors import UserError
from mmkit.types import RawPixels

Box = tuple[int, int, int, int]
Odd = Literal["even", "low"]


@dataclass(frozen=True, kw_only=True)
class CentreCrop(EvalTransform):
    """Keeping the shape until the size is covered; then its middle. (PIL RGB) -> (3, h, w) float32.

    fit: how it is resized. to: what is covered, or what it lies inside of, or is squashed to; None = the window.
    window: what is cut from the middle; None = the size. The result is the upper left of the window. odd: where the
    middle is when an odd number of pixels is left: "even" as torchvision rounds a half, "low" at the lower pixel, as
    transformers does. fill: colour, 0 to 255, where the window is larger than the picture.
    """

    fit: Fit = "cover"
    to: Size | None = None
    window: Size | None = None
    odd: Odd = "even"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        (height, width), window = height_width(self.size), height_width(self.window or self.size)
        height_width(self.to or self.size)
        if self.fit not in get_args(Fit) or self.odd not in get_args(Odd):
            raise UserError(
                f"CentreCrop fit={self.fit!r}, odd={self.odd!r}: there are {get_args(Fit)}, {get_args(Odd)}"
            )
        if window[0] < height or window[1] < width:
            raise UserError(f"CentreCrop size={self.size}, window={self.window}: the size is a part of the window")
        if len(self.fill) != 3 or not all(0 <= value <= 255 for value in self.fill):
            raise UserError(f"CentreCrop fill={self.fill}: three numbers from 0 to 255")

    def raw_pixels(self, image: Image.Image) -> RawPixels:
        """RGB picture to (3, h, w) uint8, not yet normalised."""
        whole, part = self._place(image.width, image.height)
        image = resized_part(image, whole, part, self.resample, self.fill)
        return to_pixels(image, self.mean, self.std, self.factor)

    def view(self, size: tuple[int, int]) -> View:
        """What is shown of pictures of this size, (width, height)."""
        whole, (left, top, right, bottom) = self._place(*size)
        moves = (*fitting(size, whole), shifted(-left, -top))
        return View(whole=size, size=(right - left, bottom - top), paint=self.raw_pixels, moves=moves)

    def seen(self, width: int, height: int) -> Box:
        """(left, top, right, bottom) of a picture's own pixels that is shown; beyond them where there is a border."""
        whole, (left, top, right, bottom) = self._place(width, height)
        across, down = width / whole[0], height / whole[1]
        return round(left * across), round(top * down), round(right * across), round(bottom * down)

    def resized(self, size: Size) -> CentreCrop:
        """The same for another size of the result, with the same share of the picture.

        UserError where pictures are cut as they are, so that another size would show another share.
        """
        if self.fit == "none":
            raise UserError(f"image size {size}: this model's pictures are not resized, only cut to {self.size}")
        new, old = height_width(size), height_width(self.window or self.size)
        to = None if self.to is None else height_width(self.to)
        if to is not None:
            high, wide = (max(1, round(t * n / o)) for t, n, o in zip(to, new, old, strict=True))
            to = None if (high, wide) == new else (high, wide)
        return replace(self, size=size, to=to, window=None)

    def _place(self, width: int, height: int) -> tuple[tuple[int, int], Box]:
        """(width, height) of the whole after resizing, and the result's rectangle in it."""
        window = height_width(self.window or self.size)
        whole = whole_size(width, height, height_width(self.to or window), self.fit)
        left, top = self._start(whole[0], window[1]), self._start(whole[1], window[0])
        high, wide = height_width(self.size)
        return whole, (left, top, left + wide, top + high)

    def _start(self, whole: int, window: int) -> int:
        if self.odd == "low":
            return (whole - window) // 2
        return round((whole - window) / 2) if whole >= window else -((window - whole) // 2)
