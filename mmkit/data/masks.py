"""The masks that a record's targets hold: which pixels of the picture each of its objects covers.

An object of ``boxes`` says ``segmentation``, as COCO has it: polygons ``[[x, y, x, y, ...], ...]`` in places of the
picture, which become pixels by pycocotools' rule, or runs ``{"size": [height, width], "counts": ...}`` down the
columns, of none first: a list, or the text into which pycocotools packs it. Or ``masks`` stands beside the boxes, as
torchvision has them: an array of (height, width) for each. Left out: files of pictures whose colours are objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkit.errors import UserError

FORMS = "polygons [[x, y, x, y, ...], ...], or runs {size: [height, width], counts: ...}"


def masks_in(targets: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, height, width) of the N boxes of a record, in their order, in a picture of ``size``, (width, height).

    UserError for a box without a mask, which names it by its place, and for what is none of the forms.
    """
    width, height = size
    if targets.get("masks") is not None:
        given = np.asarray(targets["masks"])
        if given.shape != (len(targets["boxes"]), height, width):
            raise UserError(
                f'"masks" of {given.shape}: there are {len(targets["boxes"])} boxes in a picture of {height} x {width}'
            )
        return given.astype(bool)
    found = np.zeros((len(targets["boxes"]), height, width), bool)
    for i, entry in enumerate(targets["boxes"]):
        said = entry.get("segmentation") if isinstance(entry, Mapping) else None
        if said is None:
            raise UserError(
                f'boxes[{i}] has no "segmentation", of which a mask is made: give each box {FORMS}; COCO\'s files keep '
                "theirs with outlines=True"
            )
        try:
            found[i] = _runs(said, size) if isinstance(said, Mapping) else _polygons(said, size)
        except ValueError as error:
            raise UserError(f'boxes[{i}] "segmentation": {error}; known are {FORMS}') from error
    return found


def _polygons(given: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """All that any of them covers; ValueError for what are none, or reach far out of the picture."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise UserError('masks of polygons need faster-coco-eval: pip install "mmkit[detection]"') from error
    if not isinstance(given, list | tuple) or not given or not all(isinstance(one, list | tuple) for one in given):
        raise ValueError(f"{str(given)[:60]} is no list of polygons")
    polygons = [np.asarray(one, np.float64) for one in given]
    for one in polygons:
        if one.ndim != 1 or len(one) < 6 or len(one) % 2 or not np.isfinite(one).all():
            raise ValueError("a polygon needs x and y of three points or more, one after the other")
        if (np.abs(one.reshape(-1, 2) - np.divide(size, 2)) > 1.5 * np.array(size)).any():
            raise ValueError(f"a polygon lies far out of its picture of {size[0]} x {size[1]}")
    drawn = mask.frPyObjects([one.tolist() for one in polygons], size[1], size[0])
    pixels: NDArray[np.bool_] = mask.decode(mask.merge(drawn)).astype(bool)
    return pixels


def _runs(given: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """ValueError where they do not fill the picture."""
    width, height = size
    counts = given.get("counts")
    runs = _unpacked(counts) if isinstance(counts, str | bytes) else counts
    if not isinstance(runs, list | tuple) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("its counts are no list of whole numbers, and no text of pycocotools'")
    if list(given.get("size") or ()) != [height, width] or sum(runs) != height * width:
        raise ValueError(f"runs over {sum(runs)} pixels, size {given.get('size')}: the picture is {height} x {width}")
    covered = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return covered.reshape(width, height).T


def _unpacked(text: str | bytes) -> list[int]:
    """The runs of a text of pycocotools: five bits a letter, lowest first; from the fourth on less the last but one."""
    letters = [letter - 48 for letter in (text.encode() if isinstance(text, str) else text)]
    runs: list[int] = []
    value = shift = 0
    for letter in letters:
        value |= (letter & 31) << shift
        shift += 5
        if not letter & 32:
            value -= (1 << shift) if letter & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or any(not 0 <= letter < 64 for letter in letters):
        raise ValueError("its counts are no text of pycocotools'")
    return runs
