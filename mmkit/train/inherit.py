"""What a run takes over from the model that it starts from: the model itself and its tokenizer, not spelled again.

A config with ``model=None`` is trained from ``init={"model": FOLDER}`` or from its ``first`` run, whose model it
continues, at its own image size. ``tokenizer=None`` takes the tokenizer from the same place. What a config does spell
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmkit.config import Experiment
from mmkit.config.allowed import MODEL, checked
from mmkit.config.as_json import rebuild
from mmkit.config.override import parameters_of
from mmkit.config.own import make_findable, own_files
from mmkit.data.texts.tokenizers import reuse
from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.files import read_json
from mmkit.models.sizes.vision import vision
from mmkit.train.folder import EXPERIMENT

CONFIG, TOKENIZER = "config.json", "tokenizer"


def inherited(exp: Experiment, out: Path, allow: Sequence[str] = ()) -> Experiment:
    """The experiment, and the runs before it, with a model and a tokenizer where it names none.

    out: the folder of the whole; a resumed run whose start is gone finds its model there. allow: modules of the user's
    own, of which that model may be. UserError where the folder
    in ``init.model`` is missing or holds no model that mmkit saved.
    """
    return _inherited(exp, out, exp.first is None, allow)


def _inherited(exp: Experiment, out: Path, alone: bool, allow: Sequence[str]) -> Experiment:
    first = None if exp.first is None else _inherited(exp.first, out, alone, allow)
    exp = exp if first is exp.first else replace(exp, first=first)
    start = exp.init.get("model")
    if start is not None and exp.tokenizer is None and _reads_words(start, out if alone else out / exp.subfolder):
        exp = replace(exp, tokenizer=partial(reuse, path=str(Path(start) / TOKENIZER)))
    if exp.model is not None:
        return exp
    if start is not None:
        return replace(exp, model=_sized(_saved(start, out if alone else out / exp.subfolder, allow), exp))
    return exp if first is None or first.model is None else replace(exp, model=_sized(first.model, exp))


def image_tower(
    start: str | Path, image_size: int | tuple[int, int], allow: Sequence[str] = (), drop_path: float = 0.0
) -> partial[Any]:
    """A model of pictures alone whose ViT has the form of the image tower of the model in a folder that mmkit saved.

    ``init={"image": start}`` then fills it, whatever the model (ALBEF, ViLT, dual, vision). allow: modules of the
    user's own, of which that model may be. drop_path: of the new training. UserError where its image tower is no ViT of
    mmkit.
    """
    if not (Path(start) / CONFIG).is_file():
        raise UserError(f"start = {start}: not the folder of a model that mmkit saved; give that of a run")
    made = _saved(str(start), Path(start), allow)
    known = read_json(Path(start) / CONFIG)["resolved"]
    with torch.device("meta"):
        model = made(**{name: value for name, value in known.items() if name in parameters_of(made)})
    tower = getattr(model, "image", None)
    if not isinstance(tower, ViT) or len(tower.patch.patch) != 2:
        raise UserError(f"{start}: its image tower is no ViT of mmkit over pictures; no other model can take it over")
    regular: dict[str, Any] = {"drop_path": drop_path} if drop_path else {}
    return partial(vision, image_size=image_size, patch=tower.patch.patch, **regular, **tower.form)


def _reads_words(start: str, own: Path) -> bool:
    """Whether the model in a folder has a tokenizer; of one that is gone the run's own folder tells."""
    if not (Path(start) / CONFIG).is_file() and (own / EXPERIMENT).is_file():
        return read_json(own / EXPERIMENT)["args"]["tokenizer"] is not None
    return (Path(start) / TOKENIZER).is_dir() or not (Path(start) / CONFIG).is_file()


def _saved(start: str, own: Path, allow: Sequence[str]) -> partial[Any]:
    """The model that a folder describes, not built; that of the run's own folder, where it began before."""
    file = Path(start) / CONFIG
    if not file.is_file() and (own / EXPERIMENT).is_file():
        file = own / EXPERIMENT
    if not file.is_file():
        raise UserError(
            f"init.model = {start}: not the folder of a model that mmkit saved, and the config names no model. Give "
            "the folder of a run; convert a checkpoint of others first (mmkit convert auto FILE FOLDER); or name the "
            "model in the config, as model=partial(albef_base, image_size=384)"
        )
    found = read_json(file)
    parts = found["args"] if file.name == EXPERIMENT and isinstance(found.get("args"), Mapping) else found
    if not isinstance(parts.get("model"), Mapping):
        raise UserError(f"{file}: describes no model; `mmkit info {file.parent}` says what it is")
    make_findable(own_files(found), checked(allow), file.parent)
    try:
        model: partial[Any] = rebuild(parts["model"], MODEL, allow)
    except UserError as error:
        raise UserError(f"init.model = {start}: {error}") from error
    return model


def _sized(model: partial[Any], exp: Experiment) -> partial[Any]:
    """The same at the image size of the run; positions are resized when the weights are read."""
    if "image_size" not in parameters_of(model):
        return model
    return partial(model.func, *model.args, **{**model.keywords, "image_size": exp.data.image_size})
