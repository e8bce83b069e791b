"""From the bytes of photographs to what a model reads: samples a second on one core, beside open_clip's own transform.

    python benchmarks/photos.py FOLDER
    python benchmarks/photos.py FOLDER --longer-side 1024 --json photos.json

Ways take turns, some pictures each, so that a noisy machine disturbs all alike; the time is the processor's, and ratios
are medians over the turns. open_clip crops 90 to 100 % of a picture, ALBEF 20 to 100 %: more takes longer, so mmkit is
timed with both. "mmkit 0.1.0" is what that version did: Pillow at each step, and float32. What mmkit gives are bytes,
which the device normalises; the others give float32.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mmkit.data.images.opening import load_image
from mmkit.data.images.randaugment import NAMES
from mmkit.data.images.transforms import CLIP_MEAN, CLIP_STD, TrainTransform, crop_box

TURN = 40
"""Pictures that one way takes before the next one takes them."""
Way = Callable[[bytes, Random], Any]
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def ways(size: int) -> dict[str, Way]:
    """What is timed, by name; the last ones are parts of the others."""
    albef = TrainTransform(size=size)
    plain = TrainTransform(size=size, randaugment=None)
    large = TrainTransform(size=size, randaugment=None, scale=(0.9, 1.0))
    return {
        "mmkit, RandAugment": partial(_mmkit, albef),
        "mmkit 0.1.0, RandAugment": partial(_as_before, size, SCALE, True),
        "mmkit": partial(_mmkit, plain),
        "mmkit 0.1.0": partial(_as_before, size, SCALE, False),
        "mmkit, crops of 90 %": partial(_mmkit, large),
        "open_clip": _open_clip(size),
        "decode": lambda file, rng: Image.open(io.BytesIO(file)).convert("RGB"),
        "decode, crop": partial(_decoded_and_cropped, size),
    }


BESIDE = {
    "mmkit, RandAugment": "mmkit 0.1.0, RandAugment", "mmkit": "open_clip", "mmkit, crops of 90 %": "open_clip",
    "mmkit 0.1.0": "open_clip", "decode": "open_clip", "decode, crop": "open_clip",
}  # fmt: skip
"""Each way's speed is told in multiples of the other's."""


def _mmkit(transform: TrainTransform, file: bytes, rng: Random) -> Any:
    return transform.raw_pixels(load_image(file), "a dog", rng)


def _open_clip(size: int) -> Way:
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=True)
    return lambda file, rng: transform(Image.open(io.BytesIO(file)))


def _decoded_and_cropped(size: int, file: bytes, rng: Random) -> Any:
    image = Image.open(io.BytesIO(file)).convert("RGB")
    return image.resize((size, size), Image.Resampling.BICUBIC, box=crop_box(*image.size, SCALE, RATIO, rng))


def _as_before(size: int, scale: tuple[float, float], augment: bool, file: bytes, rng: Random) -> Any:
    image = Image.open(io.BytesIO(file)).convert("RGB")
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=crop_box(*image.size, scale, RATIO, rng))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name in rng.choices(NAMES, k=2) if augment else ():
        if rng.random() < 0.5:
            image = _moved_or_coloured(image, name, rng.choice((-1, 1)))
    pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1), np.float32)
    pixels -= (np.float32(255) * np.array(CLIP_MEAN, np.float32))[:, None, None]
    pixels /= (np.float32(255) * np.array(CLIP_STD, np.float32))[:, None, None]
    return torch.from_numpy(pixels)


def _moved_or_coloured(image: Image.Image, name: str, sign: int) -> Image.Image:
    shear, shift = -sign * 0.21, -sign * 7.0
    colours = {
        "identity": lambda: image, "autocontrast": lambda: F.autocontrast(image), "equalize": lambda: F.equalize(image),
        "brightness": lambda: F.adjust_brightness(image, 1.36), "sharpness": lambda: F.adjust_sharpness(image, 1.36),
        "rotate": lambda: F.rotate(image, sign * 21, interpolation=InterpolationMode.BILINEAR, fill=[128] * 3),
    }  # fmt: skip
    moves = {
        "shear_x": (1, shear, 0, 0, 1, 0), "shear_y": (1, 0, 0, shear, 1, 0), "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
    }  # fmt: skip
    if name in colours:
        return colours[name]()
    bilinear = Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, moves[name], bilinear, fillcolor=(128,) * 3)


def timed(ways: dict[str, Way], files: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """Seconds a picture of each way, by turns."""
    rngs = {name: Random(0) for name in ways}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(-TURN, rounds * len(files) - TURN + 1, TURN):  # the first turn warms up
        for name, way in ways.items():
            start = time.process_time()
            for i in range(at, at + TURN):
                way(files[i % len(files)], rngs[name])
            if at >= 0:
                found[name].append((time.process_time() - start) / TURN)
    return found


def enlarged(file: bytes, longer_side: int) -> bytes:
    """A JPEG of quality 90, as large as asked."""
    image, out = load_image(file), io.BytesIO()
    factor = longer_side / max(image.size)
    image.resize((round(image.width * factor), round(image.height * factor))).save(out, "JPEG", quality=90)
    return out.getvalue()


def photographs(folder: Path, most: int, longer_side: int | None) -> list[bytes]:
    """Their files, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:most]
    if not paths:
        raise SystemExit(f"{folder}: no .jpg in it")
    files = [path.read_bytes() for path in paths]
    return files if longer_side is None else [enlarged(file, longer_side) for file in files]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs, also in folders below")
    parser.add_argument("--size", type=int, default=256, help="side of the result")
    parser.add_argument("--longer-side", type=int, help="enlarge (or shrink) the photographs first")
    parser.add_argument("--most", type=int, default=120, help="photographs")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is taken by each way")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = photographs(args.folder, args.most, args.longer_side)
    seconds = timed(ways(args.size), files, args.rounds)
    rates = {name: 1 / statistics.median(taken) for name, taken in seconds.items()}
    ratios = {
        name: statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))
        for name, other in BESIDE.items()
    }
    about = {
        "photographs": len(files), "mean_kilobytes": round(sum(map(len, files)) / len(files) / 1000), "size": args.size,
        "longer_side": args.longer_side, "machine": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(), "pillow": PIL.__version__, "torch": torch.__version__,
    }  # fmt: skip
    print(
        ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in about.items()
        )
    )
    for name, rate in rates.items():
        beside = f"  {ratios[name]:.2f} x {BESIDE[name]}" if name in ratios else ""
        print(f"{name:26s} {rate:7.0f} samples/s{beside}")
    if args.json:
        args.json.write_text(json.dumps({"about": about, "samples_per_second": rates, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
