"""DETR's released checkpoints on ResNet-50 and ResNet-101, the official ones and transformers', read and written.

    mmkit convert projects/detection/layout.py:DETR detr-r50-e632da11.pth models/detr
    mmkit convert projects/detection/layout.py:TRANSFORMERS FOLDER models/detr
    mmkit convert projects/detection/layout.py:DETR models/detr FILE --reverse

The model is torchvision's ResNet as the image tower, whose batch norms keep their statistics as the official frozen
ones do, and the head ``detect``. Classes are COCO's, under their published numbers; numbers that COCO never used stay,
as "unused 12". Pictures are squashed to 800 x 1,066 pixels unless told otherwise (--image-size): the official
evaluation keeps their shape and pads, so that numbers differ by as much as that changes pictures. Left out: files of
DC5, whose dilated last stage no tensor tells, and of segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from mmkit.convert.layouts.layout import Choices, Layout, Recipe, State
from mmkit.convert.tables.table import Fresh, Left, Row, depth_of, same
from mmkit.data.images.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from mmkit.errors import UserError
from mmkit.models.sizes.vision import vision
from projects.detection import tables
from projects.detection.head import DETR as Head
from projects.detection.names import coco_class
from projects.detection.tables import HEAD, Names

NET = "model.image.net."
BODY: dict[Names, str] = {"official": "backbone.0.body.", "released": "model.backbone.conv_encoder.model."}
LAYERS: dict[Names, str] = {"official": "transformer.", "released": "model."}
COUNTED = "num_batches_tracked"
HEAD_WIDTH = 32
RESNETS = {6: "torchvision:resnet50", 23: "torchvision:resnet101"}
"""By the number of blocks of the third stage."""


def table(names: Names, body: Sequence[str], encoder: int, decoder: int, counted: bool) -> list[Row]:
    """The rows of a whole file. body: the backbone's tensors as torchvision names them; counted: whether the file has
    the counters of its batch norms, which nothing reads.
    """
    prefix = BODY[names]
    rows: list[Row] = []
    for name in body:
        if name.endswith(COUNTED) and not counted:
            rows.append(Fresh(f"{NET}{name}", torch.tensor(0)))
            rows.append(Left(f"{NET}{name}", "frozen batch norms count nothing"))
        else:
            rows.append(same(f"{NET}{name}", f"{prefix}{name}"))
    return [*rows, *tables.rows(names, encoder, decoder)]


def fits(state: State, names: Names) -> bool:
    """Whether a file has this layout."""
    return f"{BODY[names]}conv1.weight" in state and any(key.startswith(f"{LAYERS[names]}decoder.") for key in state)


def recipe(state: State, choices: Choices, names: Names) -> Recipe:
    """The model of a file. UserError for another backbone."""
    prefix, layers = BODY[names], LAYERS[names]
    body = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
    counted = any(name.endswith(COUNTED) for name in body)
    if not counted:
        body += [f"{name.removesuffix('running_mean')}{COUNTED}" for name in body if name.endswith("running_mean")]
    blocks = depth_of(state, f"{prefix}layer3.")
    if blocks not in RESNETS or f"{prefix}layer1.0.conv3.weight" not in state:
        raise UserError(f"its backbone has {blocks} blocks in the third stage; ResNet-50 has 6, ResNet-101 has 23")
    queries, classes = (
        ("query_embed", "class_embed") if names == "official"
        else ("model.query_position_embeddings", "class_labels_classifier")
    )  # fmt: skip
    count, width = state[f"{queries}.weight"].shape
    encoder, decoder = (depth_of(state, f"{layers}{part}.layers.") for part in ("encoder", "decoder"))
    hidden = len(state[f"{layers}encoder.layers.0.{'linear1' if names == 'official' else 'fc1'}.weight"])
    if width % HEAD_WIDTH:
        raise UserError(f"its transformer is {width} wide, no multiple of {HEAD_WIDTH}, as all released ones are")
    outputs = len(state[f"{classes}.weight"]) - 1
    size = choices.image_size or (800, 1066)
    head = partial(
        Head, classes=class_names(outputs, choices), ids=tuple(range(outputs)), form="queries", width=width,
        heads=width // HEAD_WIDTH, hidden=hidden, encoder=encoder, decoder=decoder, queries=count, norm=False,
    )  # fmt: skip
    return Recipe(
        model=partial(vision, image_size=size, backbone=RESNETS[blocks]), heads={"detect": head}, vocab_size=0,
        rows=table(names, body, encoder, decoder, counted), max_tokens=0, tokenizer="",
        transform=EvalTransform(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, resample="bilinear"),
    )  # fmt: skip


def class_names(count: int, choices: Choices) -> tuple[str, ...]:
    """Those of transformers' config (id2label), COCO's for 91, or numbers; each once."""
    said: Mapping[str, Any] = next((value for key, value in choices.config.items() if key == "id2label"), {})
    names = [
        str(said[str(i)]) if str(i) in said else coco_class(i) if count == 91 else f"class {i}" for i in range(count)
    ]  # fmt: skip
    return tuple(name if names.count(name) == 1 and name != "N/A" else f"unused {i}" for i, name in enumerate(names))


def back(ours: State, names: Names) -> list[Row]:
    """The rows to write a model of ours; UserError for one whose head or tower is another."""
    body = [key.removeprefix(NET) for key in ours if key.startswith(NET)]
    if "layer3.0.conv1.weight" not in body or f"{HEAD}decoder.places.weight" not in ours:
        raise UserError('this layout holds a ResNet of torchvision with a head `detect`, a DETR of form="queries"')
    if f"{HEAD}norm.weight" in ours:
        raise UserError("the head normalises its tokens (norm=True), for which these files have no place")
    encoder, decoder = (depth_of(ours, f"{HEAD}{part}.layers.") for part in ("encoder", "decoder"))
    return table(names, body, encoder, decoder, counted=False)


def _layout(name: str, constant: str, what: str, names: Names) -> Layout:
    return Layout(
        name=name, what=what, licence="Apache-2.0 (the official DETR release)", takes=("image_size",),
        fits=partial(fits, names=names), recipe=partial(recipe, names=names), back=partial(back, names=names),
        use=f"mmkit convert projects/detection/layout.py:{constant} {{path}} OUT",
    )  # fmt: skip


DETR = _layout("detr", "DETR", "official DETR on a ResNet", "official")
TRANSFORMERS = _layout("detr-transformers", "TRANSFORMERS", "DETR of transformers on a ResNet", "released")
