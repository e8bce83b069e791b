"""Grey pictures of more than 8 bits as RGB of 8: white is what the file says it is, never what Pillow clips at.

"I;16" is 0 to 65535, but for a TIFF that says that it has fewer bits (12: 0 to 4095). Whole numbers of 32 bits ("I")
and floats ("F") state no white: there the smallest of the usual ranges that holds every value of the picture is taken,
0 to 1 (floats alone), 0 to 255, or 0 to 65535 (of signed 16 bits 32767); values outside are refused. Left out: TIFF's
own tables of grey (transfer function, smallest and largest value).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def deep_to_rgb(image: Image.Image) -> Image.Image:
    """An upright picture of such a mode as RGB, whichever file says what white is; see ``ranges``.

    ValueError where a value lies outside every range.
    """
    return _scaled(image, ranges(image), is_inverted(image))


def ranges(image: Image.Image) -> tuple[int, ...]:
    """What may be white in it, the smallest first."""
    if image.mode.startswith("I;16"):
        return (2 ** _tag(image, BITS, 16) - 1,)
    if image.mode == "F":
        return (1, 255, 65535)
    if image.format == "PPM":  # Pillow has scaled it
        return (65535,)
    return (255, 32767 if (_tag(image, BITS, 32), _tag(image, SAMPLE_FORMAT, 1)) == (16, SIGNED) else 65535)


def is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white; Pillow sees to it in pictures of 8 bits alone."""
    return _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO


def _tag(image: Image.Image, tag: int, otherwise: int) -> int:
    value = image.tag_v2.get(tag, otherwise) if isinstance(image, TiffImageFile) else otherwise
    return int(value[0] if isinstance(value, tuple) else value)


def _scaled(image: Image.Image, possible: tuple[int, ...], inverted: bool) -> Image.Image:
    values = np.asarray(image.convert("I") if image.mode.startswith("I;16") else image, np.float32)
    low, high = float(values.min()), float(values.max())
    full = next((full for full in possible if low >= 0 and high <= full), None)  # none either where a value is nan
    if full is None:
        raise ValueError(
            f"grey values from {low:.6g} to {high:.6g} (mode {image.mode}); of these 0 to "
            f"{' or 0 to '.join(map(str, possible))} is understood. Scale them, or save the picture with 8 bits"
        )
    scaled = (values * (255 / full)).round().astype(np.uint8)
    scaled = 255 - scaled if inverted else scaled
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled[values == clear] = 255  # transparent parts on white
    return Image.fromarray(scaled).convert("RGB")
