"""A picture of what a model paints in place of what it does not see.

    python -m projects.mim.reconstruct runs/mae --data pictures --out reconstructed.png

Three pictures for each: what the model saw, what it painted, the truth; visible patches are shown as they are. Of a
model trained on normalised patches (``norm_pix``) the true mean and deviation of each hidden patch go into what is
shown, which says so: without them there is nothing to see, and with them the colours are not the model's.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import mmkit
from mmkit.data.collate import Sample
from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import look
from mmkit.data.sources.open import open_source
from mmkit.errors import UserError
from mmkit.files import check_writable, save_picture
from mmkit.fonts import font
from mmkit.inference.predictor import Predictor

log = logging.getLogger("mmkit.mim")

GAP, LINE, GREY = 8, 18, 128
LEAKS = "trained on normalised patches: the true mean and deviation of each hidden patch are put in"
PLAIN = "trained on plain pixels: nothing of the hidden patches is put in"
HONEST = {True: LEAKS, False: PLAIN}


def reconstructed(predictor: Predictor, images: list[Any], head: str | None = None) -> Image.Image:
    """Rows of (seen, painted, true) pictures with what must be said of them. UserError for a model that paints none."""
    able = {name: part for name, part in predictor.heads.items() if hasattr(part, "reconstruct")}
    if not able or (head is not None and head not in able):
        raise UserError(
            f"this model has no head {head or 'that paints what is hidden'}; its heads are: "
            f"{', '.join(predictor.heads) or 'none'}. MAE's weights without a decoder cannot, nor can BEiT, which "
            "knows ids alone: train projects/mim/config.py:mae or :simmim"
        )
    painter: Any = able[head] if head else next(iter(able.values()))
    samples = [Sample(pixels=look(predictor.transform, image), image_id=i, key="") for i, image in enumerate(images)]
    with predictor.inference():
        f = predictor.features(samples)
        shown = painter.reconstruct(f)
        true = f.batch.pixels
    seen = true.masked_fill(shown.hidden[:, None], float("nan"))
    mean, std = (torch.tensor(getattr(predictor.transform, name)).view(1, 3, 1, 1) for name in ("mean", "std"))
    columns = [as_bytes(x.cpu(), mean, std) for x in (seen, shown.pixels, true)]
    return _drawn(columns, f"{100 * float(shown.hidden.float().mean()):.0f} % hidden; {HONEST[shown.leaks]}")


def as_bytes(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised (B, 3, h, w) -> uint8 as it is seen; what is not a number is grey."""
    return ((pixels * std + mean) * 255).nan_to_num(GREY).round().clamp(0, 255).byte()


def _drawn(columns: list[Tensor], note: str) -> Image.Image:
    """The three pictures of each row, two rows of them side by side, above what must be said."""
    count, _, height, width = columns[0].shape
    pen, across = font(note, 12), 1 if len(columns[0]) == 1 else 2
    block = 3 * (width + GAP)
    wide = GAP + across * (block + GAP)
    lines = wrapped(note, wide - 2 * GAP, pen.getlength)
    high = -(-count // across) * (height + GAP) + GAP
    canvas = Image.new("RGB", (wide, high + len(lines) * LINE + GAP), "white")
    for x, column in enumerate(columns):
        for i, picture in enumerate(column):
            image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
            left = GAP + (i % across) * (block + GAP) + x * (width + GAP)
            canvas.paste(image, (left, GAP + i // across * (height + GAP)))
    ImageDraw.Draw(canvas).text((GAP, high), "\n".join(lines), "black", pen, spacing=LINE - 12)
    return canvas


def wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """The words of a text in lines of at most this length each, or of one word."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and length(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the folder of a run or of a model")
    parser.add_argument("--data", default="openmoji", help="pictures: a folder, a list, openmoji")
    parser.add_argument("--n", type=int, default=6, help="so many of them")
    parser.add_argument("--head", help="which, where several paint")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(arguments)
    try:
        check_writable(args.out, f"--out {args.out}")
        source = open_source(args.data)
        if args.n < 1:
            raise UserError(f"--n {args.n}: must be at least 1")
        images = [load_image(source[i]) for i in islice(range(len(source)), args.n)]
        save_picture(reconstructed(mmkit.load(args.model), images, args.head), args.out)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
