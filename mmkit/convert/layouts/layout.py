"""What a layout is: how its files are told from others, become a model, and are written again.

A project brings one of its own as a ``Layout`` in a Python file: ``mmkit convert FILE.py:NAME IN OUT``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from mmkit.config.load import import_file
from mmkit.convert.layouts.names import check_name
from mmkit.convert.pictures.write import Form
from mmkit.convert.tables.table import Row
from mmkit.data.texts.protocol import Framing
from mmkit.errors import UserError

State = Mapping[str, Tensor]
HEAD_WIDTH = 64  # of an attention head in every released ALBEF, BERT-base and ViT-B


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What tensors do not tell.

    image_heads, text_heads: attention heads of each tower; None = what the config says, or one for each 64 of its
    width. image_size: (height, width) in pixels; None = what the config says, or a square. activation: None = what the
    config says. answers: the list that an answering head ranks, or was trained with. config: the weights' own, empty
    where there is none. pictures: what the files beside them say of pictures (``pictures.beside``).
    """

    image_heads: int | None = None
    text_heads: int | None = None
    image_size: tuple[int, int] | None = None
    activation: str | None = None
    answers: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a file becomes a model: ``model(vocab_size=)``, ``head(spec)``, the table, preprocessing and tokenizer.

    vocab_size: 0 = a model of pictures alone, ``model()``, which has no tokenizer.
    tokenizer: its name, where none lies beside the weights. framing: what it puts around a text. filled: the model
    fills texts up with the tokenizer's padding, and takes its id as ``fill_id``.
    """

    model: partial[Any]
    heads: Mapping[str, partial[Any]]
    rows: list[Row]
    vocab_size: int
    transform: Callable[[Image.Image], Tensor]
    max_tokens: int
    tokenizer: str
    framing: Framing = field(default_factory=Framing)
    filled: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    recipe: None where mmkit has no model for the whole of it. back: our state -> rows. use: what to do with ``{path}``.
    takes: the fields of ``Choices`` that its recipe reads; None = not said. pictures: whose processor reads how
    pictures are made, from a file beside the weights; None = there is no such file.
    """

    name: str
    what: str
    fits: Callable[[State], bool]
    use: str
    licence: str = "not stated in the file"
    recipe: Callable[[State, Choices], Recipe] | None = None
    back: Callable[[State], list[Row]] | None = None
    takes: tuple[str, ...] | None = None
    pictures: Form | None = None


def attention_heads(tower: str, width: int, given: int | None) -> int:
    """How many; UserError where they cannot be told from the width, or do not divide it."""
    if given is not None:
        if given < 1 or width % given:
            raise UserError(
                f"the {tower} tower is {width} wide, which {given} attention heads (--{tower}-heads, or the config) do "
                "not divide"
            )
        return given
    if width % HEAD_WIDTH:
        raise UserError(f"the {tower} tower is {width} wide, no multiple of {HEAD_WIDTH}: give --{tower}-heads N")
    return width // HEAD_WIDTH


def check_depth(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """UserError where a config, of transformers or open_clip, says other numbers of layers than the weights have."""
    model = given.get("model_cfg") or given

    def layers(tower: str) -> Any:
        theirs = model.get(f"{tower}_config") or model.get(f"{tower}_cfg") or {}
        return theirs.get("num_hidden_layers") or theirs.get("layers")

    said = {"depth": given.get("num_hidden_layers"), "image_depth": layers("vision"), "text_depth": layers("text")}
    for name, told in said.items():
        found = recipe.model.keywords.get(name)
        if isinstance(told, int) and found is not None and told != found:
            raise UserError(f"its config says {told} layers ({name}), and the weights have {found}: is the file whole?")


def patch_of(ours: State) -> tuple[int, int]:
    """The square patch of our image tower; UserError where there is none."""
    name = "model.image.patch.proj.weight"
    if name not in ours:
        raise UserError(f"there is no {name}: the model has no image tower that cuts pictures into patches")
    side = math.isqrt(ours[name].shape[1] // 3)
    if 3 * side**2 != ours[name].shape[1]:
        raise UserError(f"{name} reads {ours[name].shape[1]} numbers, no square patch of three colours")
    return side, side


def from_file(spec: str) -> Layout:
    """The layout ``FILE.py:NAME``. It runs that file's code; UserError where there is none."""
    check_name(spec)
    file, _, name = spec.rpartition(":")
    path = Path(file)
    layouts = {key: value for key, value in vars(import_file(path, "layout")).items() if isinstance(value, Layout)}
    if name not in layouts:
        raise UserError(f"{path}: has no Layout {name!r}; it has {', '.join(layouts) or 'none'}")
    return layouts[name]
