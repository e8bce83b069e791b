"""Whether a run reads pictures as the checkpoint did that it starts from: the mean, the std and the size.

Read are the files of ``mmkit/convert/pictures/read.py`` beside the weights, and what timm says of its own. Left out:
resizing and crops, which training augments anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmkit.convert.locate import known_to_timm
from mmkit.convert.pictures.read import Reading, beside, reading
from mmkit.convert.read_file import Checkpoint
from mmkit.data.images.size import height_width
from mmkit.data.images.transforms import FACTOR
from mmkit.errors import UserError

CLOSE = 1e-3


def differences(file: Checkpoint, source: str, transform: Any) -> list[str]:
    """What differs, with both values; empty where nothing does, and where one of the two says nothing."""
    transform = getattr(transform, "transform", transform)  # within one that shows grey pictures only
    if not all(hasattr(transform, name) for name in ("mean", "std", "size")):
        return []
    try:
        theirs = _reading(file, source)
    except UserError as error:
        return [f"how it reads pictures cannot be told ({error})"]
    if theirs is None:
        return []
    said = []
    for name in ("mean", "std"):
        own, share = getattr(transform, name), getattr(transform, "factor", FACTOR) / FACTOR
        ours, other = [v / share for v in own], [v / (theirs.factor / FACTOR) for v in getattr(theirs, name)]
        if any(abs(a - b) > CLOSE for a, b in zip(ours, other, strict=True)):
            said.append(f"its {name} is {_short(other)} and the run's {_short(ours)}")
    seen, size = theirs.output or theirs.to, height_width(transform.size)
    if seen != size:
        said.append(f"its pictures are {seen[0]} x {seen[1]} pixels and the run's {size[0]} x {size[1]}")
    return said


def _reading(file: Checkpoint, source: str) -> Reading | None:
    found = beside(file.path)
    kind: Any = "ViT"
    for settings in (*found.values(), file.config):
        stated = str([settings.get(key) for key in ("image_processor_type", "feature_extractor_type", "model_type")])
        named = [name for name in ("Vilt", "Siglip", "CLIP", "Blip", "DeiT") if name.lower() in stated.lower()]
        kind = named[0] if named else kind
    open_clip = file.path.name.startswith("open_clip")
    return reading(found, kind, open_clip) if found else _of_timm(file, source)


def _of_timm(file: Checkpoint, source: str) -> Reading | None:
    """What timm's config beside the weights says, or timm itself of its own names."""
    settings = file.config
    given: Any = settings.get("pretrained_cfg")
    if given is None and (known := known_to_timm(source)) is not None:
        given = known.to_dict()
    if not isinstance(given, Mapping) or not all(isinstance(given.get(key), Sequence) for key in ("mean", "std")):
        return None
    size = given.get("input_size")
    to = (size[1], size[2]) if isinstance(size, Sequence) and len(size) == 3 else (224, 224)
    return Reading(file="pretrained_cfg", fit="squash", to=to, mean=tuple(given["mean"]), std=tuple(given["std"]))


def _short(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
