"""What the config of an open_clip model may say, where a stranger wrote it: a folder, or a repository of the hub.

open_clip passes a config's words on to timm, transformers and its tokenizers: they may name files, other repositories,
and code to be fetched and run. Here each such word is checked first, and a folder's tokenizer is read by mmkit. A
folder makes no call; a text tower that is configured on the hub is taken from its cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from mmkit.convert.locate import OPEN_CLIP_CONFIG as CONFIG
from mmkit.convert.locate import cached
from mmkit.data.texts.huggingface.folder import from_folder
from mmkit.errors import UserError
from mmkit.files import inside, read_json
from mmkit.hub.fit import no_more_than

WEIGHTS = (".safetensors", ".bin", ".pth")
TOKENIZER_OPTIONS = {"clean": str, "strip_sep_token": bool, "reduction_mask": str}
LARGEST = 1_000_000
MOST_TENSORS = 20_000
REPOSITORY = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def of_folder(folder: Path, spec: str, with_weights: bool = True) -> dict[str, Any]:
    """The ``model_cfg`` of a folder. UserError for what it may not say, for links out of it, and without weights."""
    for file in folder.iterdir():
        inside(folder, file.name)
    whole = read_json(folder / CONFIG, strict=True)
    model = checked(whole.get("model_cfg"), f"{folder / CONFIG}")
    _check_picture(whole.get("preprocess_cfg", {}), f"{folder / CONFIG}")
    weights = [file for file in folder.iterdir() if file.suffix in WEIGHTS and file.is_file()]
    if not with_weights:
        return model
    if not weights:
        raise UserError(f"{spec}: the folder holds no weights (*{', *'.join(WEIGHTS)})")
    _check_size(spec, max(file.stat().st_size for file in weights), options(model, spec))
    return model


def checked(model: Any, where: str) -> dict[str, Any]:
    """A ``model_cfg``; UserError for a word that would read, fetch or run something, and a number far too large."""
    vision, text = (model.get(f"{tower}_cfg") if isinstance(model, dict) else None for tower in ("vision", "text"))
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise UserError(f"{where}: holds no model_cfg with a vision_cfg and a text_cfg; copy it again")
    _check_numbers(model, where)
    if (tower := vision.get("timm_model_name")) is not None:
        import timm

        if not isinstance(tower, str) or not re.fullmatch(r"[\w.-]+", tower) or not timm.is_model(tower.split(".")[0]):
            raise UserError(f"{where}: timm_model_name {tower!r} is no model of timm")
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if (name := text.get(key)) and not (isinstance(name, str) and REPOSITORY.fullmatch(name)):
            raise UserError(f"{where}: {key} {name!r} is no name of the hub, which are OWNER/NAME")
    options = text.get("tokenizer_kwargs") or {}
    for key, value in options.items() if isinstance(options, dict) else [("", options)]:
        if key not in TOKENIZER_OPTIONS or type(value) is not TOKENIZER_OPTIONS[key]:
            raise UserError(
                f"{where}: tokenizer_kwargs {key} = {value!r} is refused; mmkit takes {', '.join(TOKENIZER_OPTIONS)}"
            )
    return dict(model)


def _check_numbers(value: Any, where: str) -> None:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner, where)
    elif isinstance(value, int | float) and abs(value) > LARGEST:
        raise UserError(f"{where}: {str(value)[:40]} is beyond what such a model may hold, {LARGEST:,}")


def _check_picture(picture: Any, where: str) -> None:
    _check_numbers(picture, where)
    std = picture.get("std", [1]) if isinstance(picture, dict) else 0
    numbers = std if isinstance(std, list) else [std]
    if not all(isinstance(value, int | float) and value > 0 for value in numbers):
        raise UserError(f"{where}: preprocess_cfg divides pictures by std = {std!r}")


def _check_size(spec: str, size: int, own: Mapping[str, Any]) -> None:
    """UserError where the described towers hold more numbers than a file of ``size`` bytes can."""
    import open_clip

    place = f"local-dir:{spec.partition(':')[2]}"
    with torch.device("meta"), not_endless(spec):
        clip = open_clip.create_model(place, load_weights=False, pretrained_text=False, device="meta", **own)
    if (values := sum(value.numel() for value in clip.parameters())) > size:
        raise UserError(f"{spec}: its {CONFIG} describes {values:,} numbers, and its weights have {size:,} bytes")


def not_endless(spec: str) -> AbstractContextManager[None]:
    """Within, a config that asks for more layers than such models have is a UserError before they are built."""
    return no_more_than(MOST_TENSORS, f"{spec}: its {CONFIG} describes far too large a model")


def options(model: Mapping[str, Any], spec: str) -> dict[str, Any]:
    """For ``open_clip.create_model``: a folder's text tower that is configured on the hub, from its cache."""
    name = model["text_cfg"].get("hf_model_name")
    if not name:
        return {}
    if (here := cached(name, ("config.json",))) is None:
        raise UserError(
            f"{spec}: its text tower is {name} of the Hugging Face hub, whose config is not on this machine, and a "
            f"folder makes no call: fetch it once by `hf download {name} config.json`"
        )
    if "auto_map" in read_json(here, strict=True):
        raise UserError(f"{spec}: its text tower {name} needs code from the hub, which mmkit does not run")
    return {"text_cfg": {**model["text_cfg"], "hf_model_name": str(here.parent), "hf_model_pretrained": False}}


def tokenizer(folder: Path, model: Mapping[str, Any]) -> Any:
    """The tokenizer of a folder as open_clip wraps it; its files are read by mmkit. None = open_clip's own table."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, get_clean_fn

    text = model["text_cfg"]
    if not text.get("hf_tokenizer_name"):
        return None
    given = text.get("tokenizer_kwargs") or {}
    words = HFTokenizer.__new__(HFTokenizer)
    words.tokenizer_mode = text.get("tokenizer_mode") or ""
    words.context_length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    words.clean_fn = get_clean_fn(given.get("clean", "whitespace"))
    words.strip_sep_token = given.get("strip_sep_token", False)
    words.tokenizer = from_folder(folder)
    return words


@contextmanager
def never_asked(*names: Any) -> Iterator[None]:
    """Without the prompt of transformers whether code may run: it may not. UserError where a folder here is in the way.

    names: of the hub, which transformers take for a folder where one of that name is in the current one.
    """
    from transformers import dynamic_module_utils as remote

    for name in names:
        if isinstance(name, str) and Path(name).exists():
            raise UserError(
                f"{name}: of the Hugging Face hub is meant, and a folder of that name is here; go elsewhere"
            )
    before = remote.TIME_OUT_REMOTE_CODE
    remote.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        remote.TIME_OUT_REMOTE_CODE = before
