"""What a file of others is: its guessed layout, its size by part, how it reads pictures and texts, how to convert it.

Only parameters of the network in use are counted: not those of a momentum teacher, queues, counters, statistics, or a
matrix that stands there under a second name. What the file, its config or its card do not say is said to be unknown.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.config.as_json import dump
from mmkit.config.projects import clone
from mmkit.convert.locate import INDEX, OPEN_CLIP_CONFIG, SUFFIXES, WEIGHTS, check_is_weights, known_to_timm, locate
from mmkit.errors import UserError
from mmkit.hub.facts import preprocessing, quiet
from mmkit.hub.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from mmkit.convert.layouts.layout import Layout
    from mmkit.convert.read_file import Checkpoint

KINDS = ("timm:", "hf:")
TEACHERS = ("visual_encoder_m", "text_encoder_m", "text_decoder_m", "vision_proj_m", "text_proj_m", "cls_head_m")
QUEUES = ("image_queue", "text_queue", "queue_ptr", "idx_queue", "ptr_queue")
STATISTICS = ("running_mean", "running_var")
TIED = {"decoder.weight": "word_embeddings.weight", "decoder.bias": "predictions.bias"}
ROBERTA = "RoBERTa"
NAMES = {
    "roberta": ROBERTA, "xlm-roberta": "XLM-RoBERTa", "camembert": "CamemBERT, a RoBERTa", "distilbert": "DistilBERT",
    "albert": "ALBERT", "electra": "ELECTRA", "deberta": "DeBERTa", "deberta-v2": "DeBERTa", "mpnet": "MPNet",
    "blip": "BLIP", "t5": "T5", "gpt2": "GPT-2",
}  # fmt: skip
UNSTATED = "not stated in the file"


def describe_foreign(source: str) -> dict[str, Any]:
    """The facts of a path, "timm:NAME" or "hf:OWNER/NAME". UserError for what is not there or holds no weights."""
    if not source.startswith(KINDS):
        _check_holds_weights(Path(source).expanduser())
    path = locate(source)
    from mmkit.convert.layouts.known import guess
    from mmkit.convert.read_file import read_checkpoint

    with quiet("mmkit.convert.read_file"):  # what it says of several weights stands among the facts
        file = read_checkpoint(path)
    layout = guess(file.state)
    if (other := _other_kind(layout, file)) is not None:
        layout = None
    found: dict[str, Any] = {"kind": "a file of others", "file": str(file.path)}
    if layout is None:
        what = f"{other}, which no layout of mmkit covers" if other else f"keys like {', '.join(list(file.state)[:4])}"
        found |= {"layout": "unknown", "what": what, "use": _without_layout(file, source)}
        reads = _stated(file)
    else:
        reads = _reads(layout, file)
        use = layout.use.format(path=shlex.quote(source) if layout.use.startswith("mmkit") else source)
        found |= {"layout": layout.name, "what": layout.what, "use": use}
        if (file.path.parent / OPEN_CLIP_CONFIG).is_file() and Path(source).is_dir():
            found["also"] = _as_open_clip(source)
    if file.others:
        found["weights"] = f"under {file.wrapper[0]}; others by mmkit convert --weights {'|'.join(file.others)}"
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in file.state.values()})
    found |= {key: reads[key] for key in ("model", "heads") if key in reads}
    found |= counts(file.state) | {"tensors": len(file.state), "dtypes": ", ".join(kinds)}
    found |= {"preprocessing": UNSTATED, "tokenizer": _tokenizer_beside(file) or UNSTATED} | reads
    plain = {key: value for key, value in file.beside.items() if isinstance(value, int | float | str)}
    steps = next((f"{key} {plain[key]}" for key in ("global_step", "step", "iteration", "epoch") if key in plain), "")
    found |= {"training.data": UNSTATED, "training.steps": steps or UNSTATED, "licence": _licence(source, file, layout)}
    return found | {f"beside.{key}": value for key, value in plain.items()}


def counts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters in all and by part, named as in the file; what only training needs, and second names, apart."""
    parts: Counter[tuple[str, ...]] = Counter()
    apart: Counter[str] = Counter()
    tied = _tied(state)
    for name, value in state.items():
        steps = name.split(".")
        if steps[0] in TEACHERS:
            apart["teacher"] += value.numel()
        elif steps[0] in QUEUES:
            apart["queues"] += value.numel()
        elif name not in tied and value.is_floating_point() and steps[-1] not in STATISTICS:
            path = steps[:-1] or steps
            number = next((at for at, step in enumerate(path) if step.isdigit()), len(path))
            parts[tuple(path[: min(2, number)])] += value.numel()
    total, short = sum(parts.values()), Counter[str]()
    for part, size in parts.items():
        short[part[0] if part else "rest"] += size
    large = next((name for name, size in short.items() if size > 0.9 * total), "")
    for part, size in parts.items():
        if len(part) > 1 and part[0] == large:  # nearly all of it is in one part: one step further in
            short[large] -= size
            short[".".join(part)] += size
    found: dict[str, Any] = {"parameters": total}
    found |= {f"parameters.{name}": size for name, size in short.most_common(12) if size}
    return found | {f"training_only.{what}": size for what, size in sorted(apart.items())}


def _tied(state: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that stand there under another name too."""
    import torch

    found, seen = set(), set()
    for name, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride())
        if value.numel() and place in seen:
            found.add(name)
        seen.add(place)
        end = ".".join(name.split(".")[-2:])
        if end in TIED:
            first = name.split(".")[0]
            others = (key for key in state if key != name and key.endswith(TIED[end]))
            near = (state[key] for key in others if (key.split(".")[0] == first) or first == "cls")
            if any(other.shape == value.shape and torch.equal(other, value) for other in near):
                found.add(name)
    return found


def _other_kind(layout: Layout | None, file: Checkpoint) -> str | None:
    """What a file is that has BERT's names, or none that is known, and is said to be something else."""
    if layout is not None and layout.name != "bert":
        return None
    settings = file.config
    stated = settings.get("model_type")
    if isinstance(stated, str) and not (layout is not None and stated == "bert"):
        return f"a {NAMES.get(stated, repr(stated))} (its config.json: model_type {stated})"
    return f"a {ROBERTA}, by its keys" if stated is None and _is_roberta(file.state) else None


def _is_roberta(state: Mapping[str, Tensor]) -> bool:
    """One kind of segment where BERT has two, or RoBERTa's own prefix."""
    for prefix in ("", "bert.", "roberta."):
        types = f"{prefix}embeddings.token_type_embeddings.weight"
        if types in state and f"{prefix}encoder.layer.0.attention.self.query.weight" in state:
            return prefix == "roberta." or len(state[types]) == 1
    return False


def _as_open_clip(source: str) -> str:
    return f"--model {shlex.quote(f'open_clip:{source}')} in every command, as it is"


def _without_layout(file: Checkpoint, source: str) -> str:
    if (file.path.parent / OPEN_CLIP_CONFIG).is_file() and Path(source).is_dir():
        return f"{_as_open_clip(source)}; mmkit has no table to convert it"
    return "mmkit has no table for it; a Layout of your own: mmkit convert FILE.py:NAME IN OUT"


def _reads(layout: Layout, file: Checkpoint) -> dict[str, Any]:
    """The model that it becomes and how that reads pictures and texts, or what its conversion asks for first."""
    from mmkit.convert.layouts.layout import Choices
    from mmkit.convert.pictures.read import beside

    layout = _of_a_project(layout)
    if layout.recipe is None:
        return _stated(file)
    try:
        with quiet("mmkit"):
            recipe = layout.recipe(file.state, Choices(config=file.config, pictures=beside(file.path)))
    except UserError as error:
        return _stated(file) | {"first": str(error)}
    except (KeyError, IndexError, RuntimeError) as error:
        return _stated(file) | {"first": f"the file is damaged or incomplete ({type(error).__name__}: {error})"}
    found = {"model": recipe.model.func.__name__, "heads": ", ".join(recipe.heads) or "none"}
    found |= preprocessing(dump(recipe.transform), recipe.max_tokens) | {"vocab_size": recipe.vocab_size}
    words = _tokenizer_beside(file) or f"{recipe.tokenizer}, or another by --tokenizer"
    return found | {"tokenizer": f"{words}; {recipe.vocab_size} words"}


def _of_a_project(layout: Layout) -> Layout:
    """The layout FILE.py:NAME that one without a recipe points to, of the projects beside the running mmkit alone."""
    from mmkit.convert.layouts.layout import from_file

    spec = next((word for word in layout.use.split() if ".py:" in word), "")
    root = clone()
    return layout if layout.recipe or not spec or root is None else from_file(str(root / spec))


def _stated(file: Checkpoint) -> dict[str, Any]:
    """What the config beside the weights says of pictures: timm's, open_clip's, or the processor's of transformers."""
    said: dict[str, Any] = {}
    settings = file.config
    for key in ("pretrained_cfg", "preprocess_cfg"):
        part = settings.get(key)
        said |= part if isinstance(part, Mapping) else {}
    processor = file.path.parent / "preprocessor_config.json"
    said |= read_json(processor) if processor.is_file() else {}
    wanted = ("input_size", "size", "image_mean", "image_std", "mean", "std", "interpolation", "resize_mode")
    shown = {key: said[key] for key in wanted if key in said}
    return {"preprocessing": "; ".join(f"{key} {value}" for key, value in shown.items())} if shown else {}


def _tokenizer_beside(file: Checkpoint) -> str:
    from mmkit.data.texts.huggingface.folder import FILES

    here = [name for name in FILES if (file.path.parent / name).is_file()]
    return f"{here[0]} beside the weights" if here else ""


def _licence(source: str, file: Checkpoint, layout: Layout | None) -> str:
    """As the model card beside it says, its config, timm for its own, or the layout."""
    if (known := known_to_timm(source)) is not None and known.license:
        return f"{known.license} (timm)"
    card = file.path.parent / "README.md"
    if file.config and card.is_file():
        said = re.search(r"\A---\n(?:.*\n)*?license:[ \t]*(\S+)", card.read_text(encoding="utf-8", errors="replace"))
        if said:
            return f"{said[1]} (its model card)"
    settings = file.config
    for part in (settings.get("pretrained_cfg"), settings):
        if isinstance(part, Mapping) and isinstance(part.get("license"), str):
            return f"{part['license']} (its config.json)"
    return layout.licence if layout else UNSTATED


def _check_holds_weights(place: Path) -> None:
    """UserError for pictures, texts, and folders without weights, that says what they are."""
    if place.is_file():
        check_is_weights(place)
        return
    names = sorted(path.name for path in place.iterdir())
    if any(name in WEIGHTS or name.endswith((*SUFFIXES, INDEX)) for name in names):
        return
    models = sorted({str(path.parent) for path in (*place.glob("*/config.json"), *place.glob("*/checkpoints"))})
    wanted = f"give the folder of a run or of a model (with {WEIGHTS[0]} or the like), or a weights file"
    if models:
        raise UserError(f"{place}: no model itself, but a folder of some: give one of: {', '.join(models[:6])}")
    if not names:
        raise UserError(f"{place}: an empty folder; {wanted}")
    more = f", ... ({len(names)} in all)" if len(names) > 5 else ""
    raise UserError(f"{place}: holds no weights, but {', '.join(names[:5])}{more}; {wanted}")
