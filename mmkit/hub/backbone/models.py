"""A picture model of others as a predictor: ``mmkit.load("timm:resnet50.a1_in1k")``.

Its embeddings are the pooled tokens, L2-normalised; ``classify`` asks the layer that it was trained with. Pictures are
read as the weights say: size, share and way of the crop, resampling, mean and deviation. No weights are left at random.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmkit.convert.locate import locate
from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.towers import of_network
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.resizing import RESAMPLE, Fit
from mmkit.data.images.size import Size, height_width
from mmkit.data.images.transforms import EvalTransform
from mmkit.encoders.backbone.by_name import backbone
from mmkit.encoders.backbone.tower import Backbone, Side2
from mmkit.errors import UserError
from mmkit.evals.labels import read_classes
from mmkit.heads.own_classes import OwnClasses
from mmkit.hub.backbone.name import Name, parse
from mmkit.inference.predictor import Predictor
from mmkit.models.vision import Vision

log = logging.getLogger(__name__)

CROP_MODES: dict[str, Fit] = {"center": "cover", "squash": "squash", "border": "inside"}
Reading = tuple[Side2, Side2, Fit]
"""(height, width) that the network reads, to which the whole picture is resized before the crop, and how."""


def load_backbone(
    spec: str, *, device: str | torch.device = "cpu", precision: Literal["float32", "bf16"] = "float32",
    image_size: Size | None = None,
) -> Predictor:  # fmt: skip
    """A predictor with the head "class", where the weights have one. UserError names what is missing, or does not fit.

    image_size: other than the weights were trained for; positions are resampled by their library.
    """
    name = parse(spec)
    own, whole, fit = _timm_reading(name) if name.library == "timm" else _torchvision_reading(name)
    size = own if image_size is None else height_width(image_size)
    with torch.random.fork_rng(devices=[]):
        state = _weights(name)
        tower = backbone(name.tower, size, classifier=True)
    _fill(tower, state, name)
    model = Vision(tower).eval()
    classes = class_names(name, tower)
    heads = {"class": OwnClasses(model.spec, classes)} if len(classes) > 1 else {}
    transform = _transform(tower, own, whole, fit)
    transform = transform if size == own else transform.resized(size)
    return Predictor(model, heads, None, transform, 0, precision=precision).to(device)


def _timm_reading(name: Name) -> Reading:
    from timm.data import resolve_data_config

    from mmkit.encoders.backbone.timm import check_name, config_of

    check_name(name.model)
    data = resolve_data_config(pretrained_cfg=config_of(name.model).to_dict())
    _, high, wide = data["input_size"]
    if data["crop_mode"] not in CROP_MODES:
        raise UserError(f"{name.spec}: crops pictures by {data['crop_mode']!r}, which mmkit does not know")
    whole = (math.floor(high / data["crop_pct"]), math.floor(wide / data["crop_pct"]))
    return (high, wide), whole, CROP_MODES[data["crop_mode"]]


def _torchvision_reading(name: Name) -> Reading:
    from mmkit.encoders.backbone.torchvision import check_name

    check_name(name.model)
    how = _torchvision_weights(name).transforms()
    crop, whole = int(how.crop_size[0]), int(how.resize_size[0])
    return (crop, crop), (whole, whole), "cover"


def _torchvision_weights(name: Name) -> Any:
    from torchvision.models import get_model_weights

    known = get_model_weights(name.model)
    if name.weights and name.weights not in known.__members__:
        raise UserError(f"{name.spec}: torchvision has no such weights; it has {', '.join(known.__members__)}")
    return known[name.weights] if name.weights else known.DEFAULT


def _transform(tower: Backbone, own: Side2, whole: Side2, fit: Fit) -> EvalTransform:
    form = tower.form
    if form.resample not in RESAMPLE:
        raise UserError(f"{tower.name}: resamples pictures by {form.resample!r}; mmkit knows {', '.join(RESAMPLE)}")
    mean, std = form.normalise.mean, form.normalise.std
    numbers: dict[str, Any] = {
        "size": own if own[0] != own[1] else own[0], "mean": tuple(mean), "std": tuple(std), "resample": form.resample,
    }  # fmt: skip
    if fit == "squash" and whole == own:
        return EvalTransform(**numbers)
    return CentreCrop(**numbers, fit=fit, to=None if whole == own else whole)


def _weights(name: Name) -> Mapping[str, Tensor]:
    """Of the file, or those that its library publishes; UserError where these cannot be had."""
    if name.file is not None:
        return read_checkpoint(name.file).state
    if name.library == "timm":
        return read_checkpoint(locate(name.spec, as_file=f"{name.spec}@FILE")).state
    weights = _torchvision_weights(name)
    kept = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not kept.is_file():
        try:
            weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise UserError(
                f"{name.spec}: not in the cache, and {weights.url} cannot be had ({error}). Where there is a network, "
                f"fetch it, and write {name.tower}@FILE"
            ) from error
    return read_checkpoint(kept).state


def _fill(tower: Backbone, state: Mapping[str, Tensor], name: Name) -> None:
    where = name.file or name.spec
    try:
        tower.net.load_state_dict(of_network(tower, dict(state)))
    except (RuntimeError, KeyError, ValueError, AttributeError, IndexError) as error:
        told = " ".join(str(error).split())[:400]
        raise UserError(f"{where}: these weights do not fit {name.tower} ({told})") from error


def class_names(name: Name, tower: Backbone) -> tuple[str, ...]:
    """What the outputs of its classifier are called; their numbers where nothing tells, and () where there is none."""
    with torch.no_grad():
        was = tower.training
        count = len(tower.eval().logits(torch.zeros(1, 3, *tower.image_size))[0])
        tower.train(was)
    if name.library == "timm" and count == getattr(tower.net, "num_features", 0) and not tower.net.num_classes:
        return ()
    names = tuple(read_classes("imagenet").names) if count == 1000 else _told_classes(name, tower, count)
    if len(names) != count:
        return tuple(f"class {i}" for i in range(count))
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} (class {i})" for i, name in enumerate(names))


def _told_classes(name: Name, tower: Backbone, count: int) -> tuple[str, ...]:
    """Of the larger ImageNets timm tells the names."""
    if name.library != "timm":
        return ()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(tower.net)
    if subset is None:
        return ()
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(min(count, info.num_classes())))
