"""What a checkpoint is: a model that mmkit saved, a training checkpoint, a model of open_clip, a file of others.

Facts by dotted name, plain values: for ``mmkit info`` and for the model card. Parameters are those of the model; what
only training needs (momentum teacher, queues) is counted apart under ``training_only``.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkit.config.own import flags, modules_of, own_files
from mmkit.errors import UserError
from mmkit.files import inside
from mmkit.hub.backbone.name import is_one
from mmkit.hub.backbone.name import parse as parse_backbone
from mmkit.hub.facts import plain, preprocessing
from mmkit.hub.files import (
    CONFIG,
    CONVERSION,
    OPEN_CLIP,
    PREPROCESSING,
    TOKENIZER,
    TRAINING_STATE,
    WEIGHTS,
    has_words,
    is_ours,
    needed,
    read_json,
    shapes_in,
)
from mmkit.hub.foreign import KINDS, describe_foreign
from mmkit.hub.open_clip.name import parse
from mmkit.hub.training import facts, of_folder, record
from mmkit.train.resuming import SHARDS, latest, load_meta

CHECKPOINT = ("task.safetensors", "state.pt", "meta.json")
OURS = ("model", "heads", "ema")
NO_WORDS = {"tokenizer": "none: it reads pictures alone"}


def describe(path: str) -> dict[str, Any]:
    """The facts of a path, or of "open_clip:...", "timm:NAME" or "hf:OWNER/NAME".

    UserError for what is not there, or is no checkpoint; it says what is there instead.
    """
    if path.startswith(OPEN_CLIP):
        parse(path)
        from mmkit.hub.open_clip.models import describe_open_clip

        return describe_open_clip(path)
    if is_one(path) and (file := parse_backbone(path).file) is not None:
        return describe_foreign(str(file)) | {"use": f"--model {path} in every command that reads pictures alone"}
    if path.startswith(KINDS):
        return describe_foreign(path)
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(
            f"{path}: no such file or folder. Give the folder of a run or a model, a weights file, timm:NAME, "
            "hf:OWNER/NAME or open_clip:ARCH/TAG"
        )
    folder = place if place.is_dir() else place.parent
    if (place.is_dir() or place.name in CHECKPOINT) and (folder / CHECKPOINT[-1]).is_file():
        return describe_checkpoint(folder)
    if (place.is_dir() or place.name in (CONFIG, WEIGHTS, PREPROCESSING)) and is_ours(folder):
        return describe_folder(folder)
    if place.is_dir() and (newest := latest(place / "checkpoints") or latest(place)) is not None:
        return describe_checkpoint(newest)
    if place.suffix == ".safetensors" and place.stat().st_size and _names_of_ours(place):
        return _weights_alone(place)
    return describe_foreign(path)


def describe_folder(folder: Path) -> dict[str, Any]:
    """A model that mmkit saved: model, parameters by part, preprocessing, tokenizer, training, licence.

    UserError names the file that is missing or damaged.
    """
    config, shown = read_json(folder / CONFIG), read_json(folder / PREPROCESSING)
    with _or_damaged(folder, f"{CONFIG} or {PREPROCESSING}"):
        own = modules_of([config["model"], config["heads"], shown["image"]])
        files = own_files(config)
        let_in = f" {flags(own, files)}" if own else ""
        found: dict[str, Any] = {
            "kind": "a model of mmkit",
            "use": f"mmkit.load({str(folder)!r}{', allow=...' if own else ''}), or --model {shlex.quote(str(folder))}"
            f"{let_in} in every command",
            "model": config["model"]["target"], "heads": ", ".join(config["heads"]) or "none", "mmkit": config["mmkit"],
        }  # fmt: skip
        found |= {f"own code.{module}": str(files.get(module, "not recorded")) for module in own}
        found |= parameters(shapes_in(needed(folder, WEIGHTS)))
        found |= preprocessing(shown["image"], shown["max_tokens"])
        found |= NO_WORDS
        if has_words(config):
            words = config["resolved"]["vocab_size"]
            found |= {"vocab_size": words, "tokenizer": f"{tokenizer(inside(folder, TOKENIZER))}, {words} words"}
        return found | facts(of_folder(folder, config)) | _origin(folder)


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """A training checkpoint: the student's parameters, teacher and queues apart, what it trains on, and its step."""
    meta = load_meta(folder)
    with _or_damaged(folder, CHECKPOINT[-1]):
        run, experiment = folder.absolute().parents[1], meta.experiment
        arguments = experiment["args"]
        found: dict[str, Any] = {
            "kind": "a training checkpoint of mmkit: weights, teacher, queues, optimizer", "step": meta.step,
            "run": str(run), "use": "mmkit train ... --resume goes on from the newest one of its run"
            + (f"; the model for use is mmkit.load({str(run)!r})" if is_ours(run) else ""),
            "model": arguments["model"]["target"], "heads": ", ".join(arguments["heads"]),
        }  # fmt: skip
        found |= parameters(
            _shapes_in_shards(folder) if SHARDS in meta.files else shapes_in(inside(folder, CHECKPOINT[0]))
        )
        if (run / PREPROCESSING).is_file():
            shown = read_json(run / PREPROCESSING)
            found |= preprocessing(shown["image"], shown["max_tokens"])
        else:
            data = arguments["data"]["args"]
            found |= {"max_tokens": data["max_tokens"], "image_size": plain(data["image_size"])}
        found |= {"tokenizer": tokenizer(inside(run, TOKENIZER))} if arguments["tokenizer"] else NO_WORDS
        return found | facts(record(run, experiment) | {"steps": meta.step, "records": meta.records})


def _shapes_in_shards(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of the task, in a checkpoint that several processes wrote."""
    from mmkit.train import distributed

    found = distributed.shapes_in(inside(folder, SHARDS).parent)
    return {name.removeprefix("task."): shape for name, shape in found.items() if name.startswith("task.")}


@contextmanager
def _or_damaged(folder: Path, files: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder}: {files} is damaged (at {error}); copy it again, or save the model again") from error


def parameters(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Names and shapes of ours -> the model's parameters, in all and by part; teacher and queues apart."""
    parts: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    for name, shape in shapes.items():
        steps = name.split(".")
        if steps[-1] == "_extra_state":
            continue
        if steps[0] == "ema":
            apart["teacher"] += math.prod(shape)
        elif "queue" in steps:
            apart["queues"] += math.prod(shape)
        else:
            parts[".".join(steps[:2])] += math.prod(shape)
    found = {"parameters": sum(parts.values())} | {f"parameters.{part}": n for part, n in sorted(parts.items())}
    return found | {f"training_only.{what}": n for what, n in sorted(apart.items())}


def tokenizer(folder: Path) -> str:
    """What a tokenizer's folder holds."""
    if (folder / "sentencepiece.model").is_file():
        return "sentencepiece, trained on its captions"
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return "missing" if not folder.is_dir() else "of an unknown kind"
    return str(({"tokenizer_class": "of transformers"} | read_json(config))["tokenizer_class"])


def _origin(folder: Path) -> dict[str, Any]:
    if not (folder / CONVERSION).is_file():
        return {}
    made = read_json(folder / CONVERSION)
    beside = {f"origin.{key}": value for key, value in made["beside"].items()}
    state = {"origin.training_state": "kept beside, for the way back"} if (folder / TRAINING_STATE).is_file() else {}
    return {"origin": f"{made['what']}, from {made['file']}"} | beside | state


def _names_of_ours(path: Path) -> bool:
    names = shapes_in(path)
    return all(name.split(".")[0] in OURS for name in names) and any(
        name.startswith(("model.image.", "heads.", "ema.copies.")) for name in names
    )


def _weights_alone(path: Path) -> dict[str, Any]:
    """Weights in mmkit's names without the files that say how to build the model."""
    found = parameters(shapes_in(path))
    if is_ours(path.parent):
        kind = "what only training needs (teacher, queues), beside a model of mmkit"
        use = f"mmkit info {path.parent} describes the model; `mmkit convert ... --reverse` writes this back"
    else:
        kind = "weights of a model of mmkit, without its config.json"
        use = f"put it back into its model's folder ({CONFIG}, {PREPROCESSING}, {TOKENIZER}/); or init={{'model': ...}}"
    unknown = "not told: that stands in the files beside the weights"
    return (
        {"kind": kind, "file": str(path), "use": use} | found
        | {"preprocessing": unknown, "tokenizer": unknown, "training.data": unknown, "licence": "unknown: set it"}
    )  # fmt: skip
