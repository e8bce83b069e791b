"""Composing scenes: backgrounds, sprites at any size, and places with little overlap and clear relations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmkit.data.images.planar import Planar
from mmkit.data.openmoji.font import sprites

COLOURS = {
    "white": (250, 250, 248), "grey": (196, 198, 202), "pink": (248, 196, 214), "red": (226, 120, 112),
    "orange": (248, 186, 120), "yellow": (248, 232, 130), "green": (168, 216, 150), "blue": (150, 200, 240),
    "purple": (196, 170, 232), "brown": (190, 156, 124),
}  # fmt: skip
GROUNDS = tuple(COLOURS)
TEXTURES = ("plain", "gradient", "stripes", "dots", "checks", "noise")
ASIDE = 1.6
"""By how much one is further beside another than above it, or above than beside, to be told so."""


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def side(self) -> int:
        """The longer side."""
        return max(self.right - self.left, self.bottom - self.top)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y)."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@lru_cache(maxsize=128)
def background(colour: str, texture: str, size: int) -> Image.Image:
    """A light ground of one colour, (size, size) RGB; textures stay close to the colour. Do not draw on it: copy."""
    y, x = np.mgrid[0:size, 0:size] / size
    if texture == "plain":
        shade = np.zeros_like(x)
    elif texture == "gradient":
        shade = 1.2 * (y - 0.5)
    elif texture == "stripes":
        shade = np.where((6 * (x + y)) % 1 < 0.5, 0.5, -0.5)
    elif texture == "dots":
        shade = np.where((8 * x % 1 - 0.5) ** 2 + (8 * y % 1 - 0.5) ** 2 < 0.06, 0.8, -0.2)
    elif texture == "checks":
        shade = np.where((5 * x // 1 + 5 * y // 1) % 2 < 1, 0.4, -0.4)
    else:
        coarse = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
        shade = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) * 0.6
    ground = np.asarray(COLOURS[colour], np.float32) - 14 * shade[:, :, None]
    return Image.fromarray(ground.clip(0, 255).astype(np.uint8))


def sprite(emoji: str, side: int) -> Image.Image:
    """The emoji with its longer direction of this many pixels, cropped tight, RGBA. Do not draw on it."""
    return _small(emoji, side) if side <= 64 else _large(emoji, side)


def _scaled(emoji: str, side: int) -> Image.Image:
    base = _cropped(emoji, 128 if side <= 128 else 256)
    scale = side / max(base.size)
    return base.resize([max(1, round(side * scale)) for side in base.size], Image.Resampling.BICUBIC)


# Two caches, so that either stays below some 100 MB.
_small = lru_cache(maxsize=8192)(_scaled)
_large = lru_cache(maxsize=512)(_scaled)


@lru_cache(maxsize=1024)
def _cropped(emoji: str, size: int) -> Image.Image:
    whole = Image.fromarray(np.asarray(sprites(size)[emoji]))
    return whole.crop(whole.getbbox())


@lru_cache(maxsize=8192)
def _size(emoji: str, side: int) -> tuple[int, int]:
    return sprite(emoji, side).size


def sides(shares: Sequence[float], size: int) -> list[int]:
    """Sprite sides in pixels, rounded to a few steps so that scaled sprites are used again."""
    step = max(2, size // 24)
    return [max(8, step * round(share * size / step)) for share in shares]


def draw(placed: Sequence[tuple[str, Box]], colour: str, texture: str, size: int) -> Image.Image:
    """The picture, (size, size) RGB."""
    if texture == "plain":
        return Planar((size, size), partial(_on_plain, placed, colour, size))
    canvas = background(colour, texture, size).copy()
    for emoji, box in placed:
        layer = sprite(emoji, box.side)
        canvas.paste(layer, (box.left, box.top), layer)
    return canvas


def _on_plain(
    placed: Sequence[tuple[str, Box]], colour: str, size: int, canvas: NDArray[np.uint8], mirrored: bool
) -> None:  # fmt: skip
    """The same on a ground of one colour, for a canvas (3, size, size): what lies on nothing else is copied."""
    canvas[:] = _ground(colour, size)
    for number, (emoji, box) in enumerate(placed):
        left, top, right, bottom = box
        side = max(right - left, bottom - top)
        part = canvas[:, top:bottom, size - right : size - left] if mirrored else canvas[:, top:bottom, left:right]
        if number and any(_meet(box, other) for _, other in placed[:number]):
            light, through = _layer(emoji, side)
            part[:] = _blended(part, *((light[:, :, ::-1], through[:, ::-1]) if mirrored else (light, through)))
        else:
            part[:] = _on_ground(emoji, side, colour, mirrored)


def _blended(part: NDArray[np.uint8], light: NDArray[np.uint16], through: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A sprite (see ``_layer``) on what lies below, rounded as Pillow does: (3, h, w)."""
    mixed = part * through + light
    return ((mixed >> 8) + mixed >> 8).astype(np.uint8)


@lru_cache(maxsize=2048)
def _layer(emoji: str, side: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """What a sprite adds, times 255 and with what rounds it (3, h, w), and how much of 255 shows through it (h, w)."""
    *colours, alpha = np.asarray(sprite(emoji, side)).astype(np.uint16).transpose(2, 0, 1)
    return np.stack(colours) * alpha + np.uint16(128), 255 - alpha


@lru_cache(maxsize=8)
def _ground(colour: str, size: int) -> NDArray[np.uint8]:
    return np.array(np.asarray(background(colour, "plain", size)).transpose(2, 0, 1), order="C")


@lru_cache(maxsize=4096)
def _on_ground(emoji: str, side: int, colour: str, mirrored: bool) -> NDArray[np.uint8]:
    if mirrored:
        return np.ascontiguousarray(_on_ground(emoji, side, colour, False)[:, :, ::-1])
    light, through = _layer(emoji, side)
    ground = np.asarray(COLOURS[colour], np.uint8)[:, None, None]
    return _blended(np.broadcast_to(ground, light.shape), light, through)


def place(emoji: Sequence[str], shares: Sequence[float], size: int, rng: Random) -> list[Box]:
    """A tight box for each emoji. Neighbours in the list are clearly beside or clearly above one another."""
    draw = rng.random
    for attempt in range(400):
        # After many failures the drawings shrink; three large ones may not fit otherwise.
        if attempt % 50 == 0:
            shares = [0.9 * share for share in shares] if attempt else shares
            shapes = [_size(e, side) for e, side in zip(emoji, sides(shares, size), strict=True)]
            rooms = [(width, height, size - width + 1, size - height + 1) for width, height in shapes]
        boxes: list[tuple[int, int, int, int]] = []
        for width, height, across, down in rooms:
            left, top = int(draw() * across), int(draw() * down)
            box = left, top, left + width, top + height
            if boxes and not _fits(box, boxes):
                break
            boxes.append(box)
        else:
            return [Box(*box) for box in boxes]
    raise RuntimeError(f"no place for {emoji} on {size} pixels")


def _fits(box: tuple[int, int, int, int], boxes: Sequence[tuple[int, int, int, int]]) -> bool:
    """Whether it lies clear of all of these, and beside or above the last: as ``relation``, in halves of pixels."""
    left, top, right, bottom = box
    a, b, c, d = boxes[-1]
    across, down = abs(left + right - a - c), abs(top + bottom - b - d)
    if across <= ASIDE * down and down <= ASIDE * across:
        return False
    for other in boxes:  # noqa: SIM110  # ``all`` takes twice as long
        if not clear_of(box, other):
            return False
    return True


def relation(a: Box, b: Box) -> str | None:
    """Where a is seen from b: "left", "right", "above", "below"; None when it is askew."""
    (ax, ay), (bx, by) = a.centre, b.centre
    across, down = ax - bx, ay - by
    if abs(across) > ASIDE * abs(down):
        return "left" if across < 0 else "right"
    if abs(down) > ASIDE * abs(across):
        return "above" if down < 0 else "below"
    return None


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def clear_of(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether at most 6 % of the smaller box are covered."""
    a_left, a_top, a_right, a_bottom = a
    b_left, b_top, b_right, b_bottom = b
    # ``min`` and ``max``, spelled out: this is asked a dozen times for each scene
    across = (a_right if a_right < b_right else b_right) - (a_left if a_left > b_left else b_left)
    down = (a_bottom if a_bottom < b_bottom else b_bottom) - (a_top if a_top > b_top else b_top)
    if across <= 0 or down <= 0:
        return True
    smaller = min((a_right - a_left) * (a_bottom - a_top), (b_right - b_left) * (b_bottom - b_top))
    return across * down <= 0.06 * smaller
