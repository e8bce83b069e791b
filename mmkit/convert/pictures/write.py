"""How a model of ours reads pictures, in the files of others: what their own processor then makes of a picture.

Written is ``preprocessor_config.json`` for transformers and ``preprocess_cfg`` for open_clip, and only what, read again
by ``mmkit/convert/pictures/read.py``, is the same transform. Left out: a crop one pixel off where an odd number is
left, which is written and said; everything else that differs is said and not written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mmkit.convert.locate import OPEN_CLIP_CONFIG, PREPROCESSOR
from mmkit.convert.pictures.read import of_open_clip, of_transformers
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.resizing import RESAMPLE
from mmkit.data.images.size import height_width
from mmkit.data.images.transforms import FACTOR, EvalTransform, Triple
from mmkit.data.images.variable_size import KeepShape
from mmkit.errors import UserError
from mmkit.files import read_json, write_json

log = logging.getLogger(__name__)

Form = Literal["CLIP", "Siglip", "Vilt", "open_clip"]
"""Whose processor reads the file: one of transformers by its name, or open_clip's."""
FILES: dict[Form, str] = {"CLIP": PREPROCESSOR, "Siglip": PREPROCESSOR, "Vilt": PREPROCESSOR}
FILES["open_clip"] = OPEN_CLIP_CONFIG


def told(transform: Any, form: Form) -> tuple[dict[str, Any], list[str]]:
    """A transform as the file's content, and what of it the form cannot tell (empty: the pixels are the same)."""
    try:
        if type(transform) is KeepShape and form == "Vilt":
            return _of_vilt(transform)
        plain = type(transform) in (EvalTransform, CentreCrop)  # one of the user's own may do anything
        if plain and (form == "CLIP" or form == "Siglip"):
            return _of_transformers(transform, form)
        if plain and form == "open_clip":
            return _of_open_clip(transform)
    except UserError as error:
        return {}, [str(error)]
    return {}, [f"{type(transform).__name__} is none of the ways in which that program reads pictures"]


def write_beside(
    weights: Path, transform: Any, form: Form | None, model: Mapping[str, Any] | None = None
) -> Path | None:
    """Write the file into the folder of ``weights``, or say in the log what cannot be told; its path, where written.

    model: what else the file says. form: None where files of the layout have no such file. UserError where another one
    is in its place: ``free``.
    """
    if form is None:
        log.info("files of this layout do not tell how pictures are read; this model's are read so: %s", transform)
        return None
    content, differs = told(transform, form)
    if not content:
        log.warning("%s: not written, as it cannot tell how this model reads pictures (%s): %s", FILES[form],
                    "; ".join(differs), transform)  # fmt: skip
        return None
    for line in differs:
        log.warning("%s: %s", FILES[form], line)
    if (place := free(weights, transform, form, model)) is not None:
        write_json(place, {**(model or {}), **content})
    return place


def free(weights: Path, transform: Any, form: Form | None, model: Mapping[str, Any] | None = None) -> Path | None:
    """Where the file goes; None where there is none to write, or the same stands there. UserError for another one."""
    content = told(transform, form)[0] if form else {}
    if form is None or not content:
        return None
    content |= model or {}
    place = weights.parent / FILES[form]
    if not place.exists():
        return place
    found = read_json(place, strict=True)
    if all(key in found and found[key] == value for key, value in content.items()):
        return None
    raise UserError(
        f"{place}: exists already and tells other preprocessing, or another model, than this one's ({transform}): name "
        "OUT in a folder of its own"
    )


def _of_vilt(transform: KeepShape) -> tuple[dict[str, Any], list[str]]:
    content = _numbers(transform) | {
        "image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": transform.size},
        "size_divisor": transform.multiple, "do_pad": True,
    }  # fmt: skip
    again = of_transformers(content, "Vilt").keeping_shape(transform.multiple)
    if again.bound != transform.bound:
        return {}, [f"the longer side is bounded by {transform.bound} pixels, and there by {again.bound}"]
    return content, []


def _of_transformers(transform: EvalTransform, form: Literal["CLIP", "Siglip"]) -> tuple[dict[str, Any], list[str]]:
    look = _look(transform)
    (high, wide), cut = look["to"], look["window"]
    content = _numbers(transform) | {"do_resize": look["fit"] != "none"}
    if look["fit"] == "squash":
        content |= {"size": {"height": high, "width": wide}}
    elif look["fit"] == "cover" and high == wide:
        content |= {"size": {"shortest_edge": high}}
    elif look["fit"] != "none":
        return {}, [f"pictures are resized by fit={look['fit']!r} to {high} x {wide}"]
    squashed = look["fit"] == "squash" and look["to"] == cut
    kind = form if squashed else "CLIP"  # that of SigLIP cuts nothing
    content |= {"image_processor_type": f"{kind}ImageProcessor", "do_center_crop": not squashed}
    if not squashed:
        content |= {"crop_size": {"height": cut[0], "width": cut[1]}}
    return _checked(content, transform, of_transformers(content, kind).transform(look["window"], 1))


def _of_open_clip(transform: EvalTransform) -> tuple[dict[str, Any], list[str]]:
    look = _look(transform)
    modes = {"cover": "shortest", "inside": "longest", "squash": "squash"}
    if look["fit"] not in modes:
        return {}, [f"pictures are cut by fit={look['fit']!r}"]
    share = transform.factor / FACTOR
    plain = replace(
        transform, factor=FACTOR, mean=_scaled(transform.mean, share), std=_scaled(transform.std, share)
    )  # bytes times another factor are the same as another mean and std
    high, wide = look["window"]
    content: dict[str, Any] = {
        "size": high if high == wide else [high, wide], "mode": "RGB", "mean": list(plain.mean), "std": list(plain.std),
        "interpolation": transform.resample, "resize_mode": modes[look["fit"]],
        "fill_color": look["fill"][0] if look["fit"] == "inside" else 0,
    }  # fmt: skip
    found, differs = _checked(content, plain, of_open_clip(content).transform(look["window"], 1))
    return ({"preprocess_cfg": found} if found else {}), differs


def _scaled(values: Triple, share: float) -> Triple:
    a, b, c = values
    return a / share, b / share, c / share


def _numbers(transform: EvalTransform | KeepShape) -> dict[str, Any]:
    return {
        "do_rescale": True, "rescale_factor": transform.factor, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": list(transform.mean), "image_std": list(transform.std),
        "resample": RESAMPLE.index(transform.resample),
    }  # fmt: skip


def _look(transform: EvalTransform) -> dict[str, Any]:
    """What decides the pixels, whichever of the two classes says it; what decides nothing is None."""
    size = height_width(transform.size)
    found: dict[str, Any] = {
        "mean": transform.mean, "std": transform.std, "factor": transform.factor, "resample": transform.resample,
    }  # fmt: skip
    if not isinstance(transform, CentreCrop):
        return found | {"fit": "squash", "to": size, "window": size, "odd": None, "fill": None}
    window = height_width(transform.window or transform.size)
    to = height_width(transform.to or window)
    covered = transform.fit in ("cover", "squash") and to[0] >= window[0] and to[1] >= window[1]
    return found | {
        "fit": transform.fit, "to": window if transform.fit == "none" else to, "window": window,
        "odd": None if transform.fit == "squash" and to == window else transform.odd,
        "fill": None if covered else transform.fill,
    }  # fmt: skip


def _checked(content: dict[str, Any], wanted: EvalTransform, again: EvalTransform) -> tuple[dict[str, Any], list[str]]:
    """The content, unless what is read from it is another transform."""
    ours, theirs = _look(wanted), _look(again)
    differs = {key for key in ours if ours[key] != theirs[key]}
    if differs - {"odd"}:
        return {}, [f"{key} is {ours[key]}, and there {theirs[key]}" for key in sorted(differs - {"odd"})]
    odd = "the middle of a picture lies one pixel off where an odd number of pixels is left beside it"
    return content, [odd] if differs else []
