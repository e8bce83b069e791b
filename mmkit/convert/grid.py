"""How high and wide the pictures of a foreign image tower are: its tensors tell how many patches, not their shape.

The shape stands in the config beside the weights (transformers, open_clip, timm), or is given by hand. Where nothing
says it, it is taken as a square, as the released files of ALBEF, ViLT and ViT are, and a log line says so. Left out:
patches that are not square.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmkit.data.images.size import height_width
from mmkit.errors import UserError

log = logging.getLogger(__name__)

# Where a config keeps it, and how many axes stand before height and width there.
PLACES = (
    (("image_size",), 0),  # transformers' ViT, DeiT, ViLT
    (("vision_config", "image_size"), 0),  # transformers' CLIP and SigLIP
    (("model_cfg", "vision_cfg", "image_size"), 0),  # open_clip
    (("vision_cfg", "image_size"), 0),
    (("model_args", "img_size"), 0),  # timm
    (("pretrained_cfg", "input_size"), 1),
)


def told_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) in pixels of a foreign config; None where it does not say. UserError where it makes no sense."""
    for place, before in PLACES:
        found: Any = config
        for name in place:
            found = found[name] if isinstance(found, Mapping) and name in found else None
        if found is not None:
            sides = found[before:] if isinstance(found, Sequence) else found
            return height_width(tuple(sides) if isinstance(sides, list) else sides, f"the config's {'.'.join(place)}")
    return None


def picture_size(
    cells: int, patch: Sequence[int], told: tuple[int, int] | None, given: tuple[int, int] | None = None,
    *, always_square: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """(height, width) in pixels that ``cells`` positions cover, in whole patches.

    told: by the weights' config. given: by hand, in its place. always_square: nothing else exists there, so that a
    square needs no log line. UserError where the number of positions is another than these say, or is no square.
    """
    if len(patch) != 2 or patch[0] != patch[1]:
        raise UserError(f"its patches are {' x '.join(map(str, patch))} pixels; mmkit's are square")
    side = patch[0]
    known = given or told
    if known is None:
        grid = (math.isqrt(cells),) * 2
        if grid[0] ** 2 != cells:
            raise UserError(
                f"its {cells} image positions are no square grid, and no config beside the weights tells their shape: "
                f"give --image-size HEIGHTxWIDTH in pixels (patches of {side})"
            )
        if not always_square:
            log.info(
                "%d image positions taken as a square of %d x %d, %d pixels: nothing beside the weights tells their "
                "shape (--image-size HEIGHTxWIDTH where it is another)", cells, *grid, grid[0] * side,
            )  # fmt: skip
    else:
        grid = known[0] // side, known[1] // side
        if math.prod(grid) != cells:
            by = "--image-size" if given else "its config"
            raise UserError(
                f"its {cells} image positions do not cover {known[0]} x {known[1]} pixels ({by}), which are "
                f"{grid[0]} x {grid[1]} patches of {side}"
            )
    height, width = grid[0] * side, grid[1] * side
    if known not in (None, (height, width)):
        log.info("pictures of %dx%d pixels in place of %dx%d, as many as whole patches cover", height, width, *known)
    return height, width


def compact(size: tuple[int, int]) -> int | tuple[int, int]:
    """One side of a square, else both."""
    return size[0] if size[0] == size[1] else size
