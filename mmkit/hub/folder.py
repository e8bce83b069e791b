"""A trained model as one folder: weights, config, tokenizer and preprocessing together, loaded by its path alone.

``config.json`` says how to build the model and its heads (and keeps the whole experiment for the record),
``model.safetensors`` holds ``model.*`` and ``heads.NAME.*``, ``tokenizer/`` the tokenizer, ``preprocessing.json`` the
picture transform and the text length. A run's folder is such a folder. Nothing that only training needs is in it: no
queue, no teacher, no optimizer.

Loading builds only the parts that mmkit lists (``mmkit/config/allowed.py``), and of the user's own modules those that
``allow`` names; it reads safetensors, nothing outside of the folder, and asks nobody. It is strict: every key of the
file is used and every weight of the model is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmkit.config.allowed import HEAD, MODEL, TRANSFORM, checked, is_own
from mmkit.config.as_json import dump, rebuild
from mmkit.config.load import OF_FILES
from mmkit.config.override import check_partials, parameters_of
from mmkit.config.own import files_of, flags, make_findable, modules_of, own_files
from mmkit.convert.layouts.albef import ALBEF
from mmkit.data.images.size import height_width
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.images.variable_size import KeepShape
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.protocol import Tokenizer
from mmkit.data.texts.tokenizers import load_tokenizer
from mmkit.data.video.transforms import ClipTransform
from mmkit.encoders.backbone.tower import Backbone
from mmkit.errors import UserError
from mmkit.files import beside, write_json
from mmkit.hub.backbone.name import is_one
from mmkit.hub.files import (
    CONFIG,
    CONVERSION,
    OPEN_CLIP,
    PREPROCESSING,
    TOKENIZER,
    WEIGHTS,
    has_words,
    needed,
    read_json,
    shapes_in,
)
from mmkit.hub.fit import check_plan, check_shapes, names_of_all, state_of_all
from mmkit.hub.place import FORMAT, config_of
from mmkit.hub.training import record
from mmkit.inference.predictor import Predictor
from mmkit.nn.positions import GridPositions
from mmkit.types import grid_of

log = logging.getLogger(__name__)

LONGEST = 1_000_000  # tokens


def save(
    folder: str | Path, predictor: Predictor, experiment: Mapping[str, Any], training: Mapping[str, Any] | None = None,
    *, weights: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write a predictor so that ``load(folder)`` gives it back; other files in the folder stay.

    experiment: ``mmkit.config.dump`` of the run. training: the record of it (``mmkit/hub/training.py``); None = what
    the folder and the experiment tell. weights: to be written in place of the predictor's own, by the names in the
    file, on the CPU, none sharing memory. Each file is replaced whole. UserError where it cannot be written.
    """
    folder = Path(folder)
    parts = experiment["args"]
    training = record(folder, experiment, follow=True) if training is None else training
    tokenizer = predictor.tokenizer if predictor.reads_words else None
    words = {} if tokenizer is None else {"vocab_size": predictor.model.spec.vocab_size, "pad_id": tokenizer.pad_id}
    config = {
        "format": FORMAT, "mmkit": _version(), "model": _sized(parts["model"], predictor),
        "heads": {name: parts["heads"][name] for name, head in predictor.heads.items() if _has_weights(head)},
        "resolved": words, "experiment": dict(experiment), **({"training": dict(training)} if training else {}),
    }  # fmt: skip
    preprocessing = {"image": dump(predictor.transform), "max_tokens": predictor.max_tokens if words else 0}
    if own := files_of([config, preprocessing]):
        config["own"] = own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if tokenizer is not None:
            tokenizer.save(folder / TOKENIZER)
        write_json(folder / PREPROCESSING, preprocessing)
        with beside(folder / WEIGHTS) as part:
            save_file(weights_of(predictor, weights), part, metadata={"format": "pt"})
            write_json(folder / CONFIG, config)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model cannot be written ({error})") from error


def load(
    path: str | Path, *, device: str | torch.device = "cpu", precision: Literal["float32", "bf16"] = "float32",
    image_size: int | tuple[int, int] | None = None, allow: str | Sequence[str] = (),
) -> Predictor:  # fmt: skip
    """The model in a folder: see ``mmkit.load``; or one of open_clip's, timm's or torchvision's: see their packages."""
    if str(path).startswith(OPEN_CLIP):
        from mmkit.hub.open_clip.models import load_open_clip

        return load_open_clip(str(path), device=device, precision=precision, image_size=image_size)
    if is_one(str(path)):
        from mmkit.hub.backbone.models import load_backbone

        return load_backbone(str(path), device=device, precision=precision, image_size=image_size)
    folder, config = config_of(path)
    preprocessing = read_json(needed(folder, PREPROCESSING))
    tokenizer = load_tokenizer(needed(folder, TOKENIZER)) if has_words(config) else None
    if tokenizer is not None:
        _tell_uncleaned(folder, tokenizer)
    weights, own, files = needed(folder, WEIGHTS), checked(allow), own_files(config)
    make_findable(files, own, folder)
    try:
        transform, max_tokens = _reading(preprocessing, own, words=tokenizer is not None)
        with torch.random.fork_rng(devices=[]):
            model, heads = _parts(config, own, 0 if tokenizer is None else tokenizer.vocab_size, folder)
    except KeyError as error:
        raise UserError(f"{folder}: {CONFIG} or {PREPROCESSING} lacks {error}; save the model again") from error
    except (TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
        if isinstance(error, UserError):
            whole = _all_own([{**config, "experiment": None}, preprocessing], own, files)
            raise error if str(error).startswith(str(folder)) else UserError(f"{folder}: {error}{whole}") from error
        raise UserError(
            f"{folder}: {CONFIG} or {PREPROCESSING} does not describe a model that this version of mmkit builds "
            f"({error}); copy both again, or save the model again"
        ) from error
    predictor = Predictor(model, heads, tokenizer, transform, max_tokens, precision=precision)
    load_weights(predictor, weights)
    if image_size is not None:
        resize(predictor, image_size)
    for part in (model, *heads.values()):
        part.eval()
    return predictor.to(device)


def _all_own(parts: list[Any], allow: tuple[str, ...], files: Mapping[str, Any]) -> str:
    """The end of a refusal, where its own words do not tell all that is to be allowed."""
    missing = [module for module in modules_of(parts) if not is_own(module, allow)]
    if len(missing) < 2 and not any(module.startswith(OF_FILES) for module in missing):
        return ""
    return f"; in all {flags(missing, files)}"


def _reading(preprocessing: Mapping[str, Any], allow: tuple[str, ...], words: bool) -> tuple[Any, int]:
    """The picture transform and the text length, 0 without words."""
    transform, max_tokens = rebuild(preprocessing["image"], TRANSFORM, allow), preprocessing["max_tokens"]
    if not callable(transform):
        raise TypeError(f"image is {transform!r}, no picture transform")
    if type(max_tokens) is not int or not (1 < max_tokens <= LONGEST if words else max_tokens == 0):
        raise ValueError(f"max_tokens is {max_tokens!r}, no length of texts")
    if any(std <= 0 for std in getattr(transform, "std", ())):
        raise ValueError(f"pictures are divided by std = {transform.std}")
    return transform, max_tokens


def _parts(
    config: Mapping[str, Any], allow: tuple[str, ...], words: int, folder: Path
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The model and the heads that a config describes; those of mmkit's own lists are first compared with the weights.

    words: of the tokenizer, at most as many as the model has.
    """
    make = rebuild(config["model"], MODEL, allow)
    heads = {name: rebuild(part, HEAD, allow) for name, part in config["heads"].items()}
    sizes = {name: value for name, value in config["resolved"].items() if name in parameters_of(make)}
    if words and words > config["resolved"]["vocab_size"]:  # more rows than words are a matter of padding
        raise UserError(
            f"{folder / TOKENIZER}: {words} words, but the model has {config['resolved']['vocab_size']}; "
            "this is not the tokenizer that it was trained with"
        )
    make = partial(make, **sizes)
    check_partials(make, "model")
    if not any(is_own(part["target"], allow) for part in (config["model"], *config["heads"].values())):
        check_plan(make, heads, folder / WEIGHTS)
    model = make()
    built = {name: head(model.spec) for name, head in heads.items()}
    for name, part in {"model": model, **built}.items():
        if not isinstance(part, nn.Module):
            raise TypeError(f"{name} is a {type(part).__name__}, no module of PyTorch")
    return model, built


def _tell_uncleaned(folder: Path, tokenizer: Tokenizer) -> None:
    """A log line for an official ALBEF that mmkit 0.1.0 converted: its tokenizer leaves texts as they are."""
    if not (folder / CONVERSION).is_file() or not isinstance(tokenizer, HuggingFaceTokenizer):
        return
    name = read_json(folder / CONVERSION)["layout"]
    layout = next((layout for layout in ALBEF if layout.name == name), None)
    if layout is not None and tokenizer.framing.clean == "none":
        log.warning(
            "%s: converted by mmkit 0.1.0, which did not clean texts as the official ALBEF does (lower case, no "
            "punctuation): its numbers are lower than the published ones. Convert again: %s",
            folder, layout.use.format(path="FILE"),
        )  # fmt: skip


def resize(predictor: Predictor, image_size: int | tuple[int, int]) -> None:
    """Another image size for a predictor, in place: its positions and its transform.

    UserError where the patch does not divide it.
    """
    size = height_width(image_size)
    if isinstance(predictor.transform, KeepShape):  # its positions fit each picture anyway
        if not isinstance(image_size, int):
            raise UserError(
                f"image size {size[0]}x{size[1]}: this model keeps each picture's shape; give its shorter side"
            )
        log.info("pictures' shorter side %d in place of %d", image_size, predictor.transform.size)
        predictor.transform = replace(predictor.transform, size=image_size)
        return
    foreign = getattr(predictor.model, "image", None)
    if isinstance(foreign, Backbone) and isinstance(predictor.transform, EvalTransform):
        foreign.resize_(size)
        predictor.transform = predictor.transform.resized(size)
        return
    towers = _towers(predictor)
    if not towers or not isinstance(predictor.transform, EvalTransform | ClipTransform):
        raise UserError("the image size of this model cannot be changed when it is loaded")
    for tower in towers:
        times = tower.positions.grid[:-2]  # of a clip
        tower.positions.resize_((*times, *grid_of(size, tower.patch.patch[-2:])))
    predictor.transform = predictor.transform.resized(size)


def _sized(part: Mapping[str, Any], predictor: Predictor) -> dict[str, Any]:
    """The config of a model with the image size that its positions have now, see ``resize``."""
    towers = _towers(predictor)
    arguments = dict(part["args"])
    foreign = getattr(predictor.model, "image", None)
    if (towers or isinstance(foreign, Backbone)) and "image_size" in arguments:
        said = arguments["image_size"]
        if isinstance(foreign, Backbone):
            size = list(foreign.image_size)
        else:
            grid = zip(towers[0].positions.grid, towers[0].patch.patch, strict=True)
            size = [cells * side for cells, side in grid][-2:]
        if size != ([said] * len(size) if isinstance(said, int) else said["tuple"]):
            arguments["image_size"] = {"tuple": size}
    return {**part, "args": arguments}


def _towers(predictor: Predictor) -> list[Any]:
    """The modules with positions of pictures or clips; those of times alone do not follow the picture's size."""
    found = (m for m in predictor.model.modules() if isinstance(getattr(m, "positions", None), GridPositions))
    return [module for module in found if len(module.positions.grid) > 1]


def weights_of(predictor: Predictor, others: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What inference needs, by the name in the file; on the CPU, none sharing memory. others: see ``save``."""
    heads = {name: head for name, head in predictor.heads.items() if _has_weights(head)}
    if others is not None:
        return {name: others[name] for name in names_of_all(predictor.model, heads, others)}
    state = state_of_all(predictor.model, heads)
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def load_weights(predictor: Predictor, path: Path) -> None:
    """Copy the weights of a file into the model and the heads; UserError unless both have the same names and shapes."""
    wanted = state_of_all(predictor.model, predictor.heads)
    check_shapes(wanted, shapes_in(path), path)
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for name, value in wanted.items():
                found = file.get_tensor(name)
                if found.is_floating_point() != value.is_floating_point():
                    raise UserError(f"{path}: {name} holds {found.dtype}, wanted {value.dtype}; save the model again")
                value.copy_(found)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); copy or save it again") from error


def _has_weights(head: nn.Module) -> bool:
    return any(True for _ in head.parameters())


def _version() -> str:
    try:
        return version("mmkit")
    except PackageNotFoundError:
        return "unknown"
