"""How a checkpoint reads pictures, as the files beside its weights say: every field is obeyed, or refused by its name.

Read are transformers' ``preprocessor_config.json`` and ``processor_config.json`` (also those of old feature extractors)
and the ``preprocess_cfg`` of open_clip. What is absent is as the source's own class
has it. Pictures come as
RGB, with what is transparent on white, as transformers makes them; its resizing is Pillow's, as the weights were
trained. Left out: processors that cut a picture into several, and those with code of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmkit.convert.locate import OPEN_CLIP_CONFIG, PICTURES, PREPROCESSOR, PROCESSOR
from mmkit.data.images.centre_crop import CentreCrop, Odd
from mmkit.data.images.resizing import RESAMPLE, Fit, Resample
from mmkit.data.images.size import Size, height_width
from mmkit.data.images.transforms import CLIP_MEAN, CLIP_STD, FACTOR, EvalTransform, Triple
from mmkit.data.images.variable_size import HALF, KeepShape
from mmkit.errors import UserError
from mmkit.files import read_json

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]
Kind = Literal["CLIP", "Siglip", "Vilt", "Blip"]

PLAIN: dict[str, Any] = {
    "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 3, "do_center_crop": False,
    "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": FACTOR, "do_normalize": True,
    "image_mean": HALF, "image_std": HALF, "do_pad": False, "pad_size": None, "default_to_square": True,
    "offset": False, "rescale_offset": False,
}  # fmt: skip
OPENAI = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
CLASSES: dict[str, dict[str, Any]] = {
    "CLIP": OPENAI | {"size": {"shortest_edge": 224}, "do_center_crop": True, "default_to_square": False},
    "Siglip": {"default_to_square": False},
    "Vilt": {"size": {"shortest_edge": 384}, "size_divisor": 32, "do_pad": True, "default_to_square": False},
    "ViT": {"resample": 2},
    "DeiT": {"size": {"height": 256, "width": 256}, "do_center_crop": True},
    "Blip": OPENAI | {"size": {"height": 384, "width": 384}},
}  # fmt: skip
"""What each class of transformers has in place of ``PLAIN``."""
NULL: dict[str, Any] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "offset"), False),
    "rescale_offset": False, "default_to_square": False,
}  # fmt: skip
"""What null means where it means something."""
NO_PIXELS = {
    "processor_class", "image_processor_type", "feature_extractor_type", "_valid_processor_keys", "input_data_format",
    "device", "disable_grouping", "return_tensors", "image_seq_length", "do_convert_rgb", "transformers_version",
    "model_input_names", "_processor_class", "use_fast", "backend", "name_or_path",
}  # fmt: skip
"""Fields that change no pixel of an RGB picture."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a file says. to: (height, width) that ``fit`` is about. window: cut from the middle; None = nothing is cut.

    The rest is as in ``CentreCrop``. divisor: of both sides, where pictures keep their shape up to the shorter side
    ``to``, as ViLT's; else None.
    """

    file: str
    fit: Fit = "cover"
    to: tuple[int, int] = (224, 224)
    window: tuple[int, int] | None = None
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD
    factor: float = FACTOR
    resample: Resample = "bicubic"
    odd: Odd = "even"
    fill: tuple[int, int, int] = (0, 0, 0)
    divisor: int | None = None

    def at(self, size: tuple[int, int]) -> Reading:
        """The same for another size, (height, width), of what is fitted and cut."""
        return replace(self, to=size, window=self.window and size)

    @property
    def output(self) -> tuple[int, int] | None:
        """(height, width) that every picture gets; None where they are not of one size."""
        return self.window if self.window or self.fit != "squash" else self.to

    def transform(self, size: Size, patch: int) -> EvalTransform:
        """For a tower that reads ``size``, the whole patches of the output. UserError where they disagree."""
        output, seen = self.output, height_width(size)
        if output is None:
            raise UserError(
                f"{self.file}: pictures are resized and not cropped, so that each has another shape (do_resize, "
                f"do_center_crop, size), and this model reads {_by(seen)} pixels"
            )
        if tuple(side // patch * patch for side in output) != seen:
            raise UserError(
                f"{self.file}: makes pictures of {_by(output)} pixels, and this model reads {_by(seen)}: is it the "
                "file of these weights?"
            )
        numbers: dict[str, Any] = {
            "size": size, "mean": self.mean, "std": self.std, "resample": self.resample, "factor": self.factor,
        }  # fmt: skip
        if self.fit == "squash" and self.to == output == seen:
            return EvalTransform(**numbers)
        return CentreCrop(
            **numbers, fit=self.fit, to=None if self.to == output or self.fit == "none" else self.to,
            window=None if output == seen else output, odd=self.odd, fill=self.fill,
        )  # fmt: skip

    def keeping_shape(self, patch: int) -> KeepShape:
        """For a ViLT. UserError where its pictures are made otherwise."""
        if self.divisor is None or self.divisor % patch:
            raise UserError(f"{self.file}: size_divisor is {self.divisor}, no multiple of the model's patch of {patch}")
        return KeepShape(
            size=self.to[0], multiple=self.divisor, mean=self.mean, std=self.std, resample=self.resample,
            factor=self.factor,
        )  # fmt: skip


def beside(path: Path, names: Sequence[str] = PICTURES) -> dict[str, Settings]:
    """The settings in the folder of a weights file, of these files, by their names; that which counts comes first."""
    said = {name: read_json(file, strict=True) for name in names if (file := path.parent / name).is_file()}
    found: dict[str, Settings] = {}
    for name, settings in said.items():
        inner = {PROCESSOR: "image_processor", OPEN_CLIP_CONFIG: "preprocess_cfg"}.get(name)
        if inner is None or inner in settings:
            found[f"{name}: {inner}" if name == PROCESSOR else name] = settings if inner is None else settings[inner]
    return found


def reading(found: Mapping[str, Settings], kind: Kind, open_clip: bool = False) -> Reading | None:
    """What counts of these files for a model of a kind; None where there is none.

    open_clip: whether the weights have open_clip's names, so that its own file counts before the others.
    """
    for file in sorted(found, key=lambda name: (name == OPEN_CLIP_CONFIG) != open_clip):
        settings = found[file]
        if not isinstance(settings, Mapping):
            raise UserError(f"{file}: should hold settings by name, and is {settings!r}")
        return of_open_clip(settings, file) if file == OPEN_CLIP_CONFIG else of_transformers(settings, kind, file)
    return None


def picture_transform(
    found: Reading | None, default: Reading, size: Size, patch: int, full: tuple[int, int] | None
) -> EvalTransform:
    """How a tower of one ``size`` reads pictures: by what was found, else by the default, with a log line.

    full: what the config or the user say of the size, which may be more than whole patches.
    """
    full = full or height_width(size)
    if found is None:
        log.info("nothing beside the weights tells how pictures are read; taken as published: %s", default.at(full))
        return default.at(full).transform(size, patch)
    found = found.at(full) if found.file == OPEN_CLIP_CONFIG else found  # open_clip asks its model for the size
    log.info("pictures as %s says: %s", found.file, made := found.transform(size, patch))
    return made


def of_open_clip(given: Settings, file: str = OPEN_CLIP_CONFIG) -> Reading:
    """A ``preprocess_cfg``. Where the shorter side is fitted to a size that is no square, open_clip is bicubic."""
    known: dict[str, Any] = {
        "size": 224, "mode": "RGB", "mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic",
        "resize_mode": "shortest", "fill_color": 0,
    }  # fmt: skip
    said = {key: value for key, value in given.items() if value is not None}
    if odd := sorted(said.keys() - known.keys()):
        raise UserError(f"{file}: preprocess_cfg.{odd[0]} = {said[odd[0]]!r} is not known to mmkit")
    known |= said
    fits: dict[str, Fit] = {"shortest": "cover", "longest": "inside", "squash": "squash"}
    ways = {"mode": ("RGB",), "interpolation": ("bicubic", "bilinear", "random"), "resize_mode": tuple(fits)}
    for key, choices in ways.items():
        if known[key] not in choices:
            raise UserError(f"{file}: preprocess_cfg.{key} is {known[key]!r}; mmkit knows {', '.join(choices)}")
    size = known["size"]
    to = height_width(tuple(size) if isinstance(size, list) else size, f"{file}: preprocess_cfg.size")
    fill = known["fill_color"]
    if not isinstance(fill, int) or not 0 <= fill <= 255:
        raise UserError(f"{file}: preprocess_cfg.fill_color is {fill!r}; mmkit knows 0 to 255")
    fit = fits[known["resize_mode"]]
    linear = known["interpolation"] == "bilinear" and not (fit == "cover" and to[0] != to[1])
    return Reading(
        file=file, fit=fit, to=to, window=None if fit == "squash" else to, mean=_triple(known["mean"], "mean", file),
        std=_triple(known["std"], "std", file), resample="bilinear" if linear else "bicubic",
        fill=(fill, fill, fill) if fit == "inside" else (0, 0, 0),
    )  # fmt: skip


def of_transformers(given: Settings, kind: Kind, file: str = PREPROCESSOR) -> Reading:
    """The settings of an image processor; its class, where it says none, is that of the model's ``kind``."""
    name = _class_of(given, kind, file)
    known = PLAIN | CLASSES[name] | dict(given)
    known |= {key: value for key, value in NULL.items() if known[key] is None}
    _refuse_unknown(given, name, file)
    for key in NULL:
        if type(known[key]) is not bool:
            raise UserError(f"{file}: {key} is {known[key]!r}, neither true nor false")
    factor = known["rescale_factor"] if known["do_rescale"] else 1.0
    if not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise UserError(f"{file}: rescale_factor is {factor!r}, no number above 0")
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    if known["do_normalize"]:
        mean, std = _triple(known["image_mean"], "image_mean", file), _triple(known["image_std"], "image_std", file)
    code = known["resample"]
    if type(code) is not int or not 0 <= code < len(RESAMPLE):
        raise UserError(f"{file}: resample is {code!r}; mmkit knows Pillow's 0 to {len(RESAMPLE) - 1}")
    numbers: dict[str, Any] = {"file": file, "mean": mean, "std": std, "factor": factor, "resample": RESAMPLE[code]}
    if name == "Vilt":
        return Reading(**numbers, **_shape_of_vilt(known, file))
    return Reading(**numbers, odd="low", **_shape(known, file))


def _class_of(given: Settings, kind: Kind, file: str) -> str:
    said = next((given[key] for key in ("image_processor_type", "feature_extractor_type") if given.get(key)), None)
    if isinstance(given.get("auto_map"), Mapping) and "AutoImageProcessor" in given["auto_map"]:
        raise UserError(
            f"{file}: auto_map says that its pictures are read by code of its own, which mmkit does not run"
        )
    if said is None:
        return kind
    name = str(said).removesuffix("Fast").removesuffix("Pil")
    name = name.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if name not in CLASSES or (name == "Vilt") != (kind == "Vilt"):
        fitting = ", ".join(known for known in CLASSES if (known == "Vilt") == (kind == "Vilt"))
        raise UserError(f"{file}: image_processor_type is {said!r}; for this model mmkit knows those of {fitting}")
    return name


def _refuse_unknown(given: Settings, name: str, file: str) -> None:
    known = PLAIN.keys() | CLASSES[name].keys() | NO_PIXELS | {"auto_map"}
    for key, value in given.items():
        off = value is None or (value is False and (key.startswith("do_") or key in ("offset", "use_square_size")))
        if key == "data_format" and value in (None, "channels_first", "FIRST"):
            continue
        if key not in known and not off:
            raise UserError(f"{file}: {key} = {value!r} is not known to mmkit, and may change the pixels")
    for key in ("offset", "rescale_offset"):
        if given.get(key):
            raise UserError(f"{file}: {key} = {given[key]!r}: {name} has no such field, and may mean other pixels")


def _shape(known: Settings, file: str) -> dict[str, Any]:
    """fit, to and window of a class whose pictures are of one size."""
    found: dict[str, Any] = {}
    if known["do_center_crop"]:
        found["window"] = _sides(known["crop_size"], True, "crop_size", file)
        if found["window"] is None:
            raise UserError(f"{file}: crop_size is {known['crop_size']!r}; it needs height and width")
    if not known["do_resize"]:
        found["fit"] = "none"
    elif (size := _sides(known["size"], known["default_to_square"], "size", file)) is not None:
        found |= {"fit": "squash", "to": size}
    else:
        edge = _edge(known["size"], file)
        found |= {"fit": "cover", "to": (edge, edge)}
    output = found.get("window") or found.get("to")
    if known["do_pad"] and known["pad_size"] and _sides(known["pad_size"], True, "pad_size", file) != output:
        raise UserError(f"{file}: pad_size = {known['pad_size']!r}: mmkit pads no pictures of this kind of model")
    return found


def _shape_of_vilt(known: Settings, file: str) -> dict[str, Any]:
    if not known["do_resize"] or known["do_center_crop"] or known["pad_size"]:
        raise UserError(f"{file}: a ViLT's pictures are resized and not cropped (do_resize, do_center_crop, pad_size)")
    if _sides(known["size"], known["default_to_square"], "size", file) is not None:
        raise UserError(f"{file}: size = {known['size']!r}: a ViLT keeps the shape of pictures, size.shortest_edge")
    edge, divisor = _edge(known["size"], file), known["size_divisor"]
    if type(divisor) is not int or divisor < 1:
        raise UserError(f"{file}: size_divisor is {divisor!r}, no number of pixels")
    return {"to": (edge, edge), "divisor": divisor}


def _sides(size: Any, square: bool, name: str, file: str) -> tuple[int, int] | None:
    """(height, width) where a size gives both; None where it is a shorter side."""
    if type(size) is int:
        return height_width(size, f"{file}: {name}") if square else None
    if isinstance(size, Mapping):
        both = {key: value for key, value in size.items() if value is not None}
        if both.keys() != {"height", "width"}:
            return None
        size = both["height"], both["width"]
    return height_width(tuple(size) if isinstance(size, Sequence) else size, f"{file}: {name}")


def _edge(size: Any, file: str) -> int:
    """The shorter side; UserError for other ways to give a size."""
    said = size if isinstance(size, Mapping) else {"shortest_edge": size}
    both = {key: value for key, value in said.items() if value is not None}
    if both.keys() != {"shortest_edge"}:
        raise UserError(f"{file}: size = {size!r}; mmkit knows height and width, or shortest_edge alone")
    return height_width(both["shortest_edge"], f"{file}: size.shortest_edge")[0]


def _triple(value: Any, name: str, file: str) -> Triple:
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, Sequence) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"{file}: {name} is {value!r}, no three numbers")
    a, b, c = values
    return float(a), float(b), float(c)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
