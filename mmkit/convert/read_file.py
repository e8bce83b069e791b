"""Weights from a file that somebody else made: safetensors, or a pickle of tensors and nothing more.

A pickle is a program. It is read by PyTorch's restricted reader, which knows tensors, containers, numbers and texts,
and is refused when it asks for anything else, as is a TorchScript archive, which holds code. What stands around the
weights (``model``, ``state_dict``, ``module.``) is taken off and remembered, so that it can be put back.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmkit.convert.table import State
from mmkit.errors import UserError
from mmkit.files import read_json, write_tensors, writing

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
OPEN_CLIP_CONFIG = "open_clip_config.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
WRAPPERS = ("model", "state_dict", "model_state_dict")
PARALLEL = "module."
SCRIPT = "constants.pkl"  # every TorchScript archive has one, and no file of torch.save
ADVICE = ("weights_only", "safe_globals")  # a reason of PyTorch's with one of these tells how to read it unsafely


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights, and what came with them.

    path: of the file. state: the weights. wrapper: the keys under which they lay ("model"). parallel: whether every
    name began with "module.". beside: what else the file holds (epoch, optimizer, ...). config: the ``config.json`` or
    ``open_clip_config.json`` in the same folder.
    """

    path: Path
    state: State
    wrapper: tuple[str, ...] = ()
    parallel: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The weights of a file, or of the folder that holds it.

    UserError where there is none, where it is damaged, and where a pickle asks for more than tensors.
    """
    path = find_weights(Path(path))
    beside: dict[str, Any] = {}
    wrapper: list[str] = []
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: damaged, or not a safetensors file ({error})") from error
    else:
        content = _unpickled(path)
    while not _is_state(content):
        name = next((w for w in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(w), Mapping)), None)
        if name is None:
            places = ", ".join(WRAPPERS)
            raise UserError(f"{path}: holds no weights, but {_described(content)}; looked for under {places}")
        beside |= {str(key): value for key, value in content.items() if key != name}
        content = content[name]
        wrapper.append(name)
    parallel = all(key.startswith(PARALLEL) for key in content)
    state = {key.removeprefix(PARALLEL) if parallel else key: value for key, value in content.items()}
    return Checkpoint(
        path=path, state=state, wrapper=tuple(wrapper), parallel=parallel, beside=beside, config=_config_of(path)
    )


def write_checkpoint(path: Path, state: Mapping[str, Tensor], wrapper: tuple[str, ...] = ()) -> None:
    """Weights as a file of others: safetensors, or by another suffix a pickle with ``wrapper`` around the weights."""
    if path.suffix == ".safetensors":
        write_tensors(path, {key: value.clone() for key, value in state.items()}, {"format": "pt"})
        return
    content: Any = dict(state)
    for name in reversed(wrapper):
        content = {name: content}
    with writing(path, "wb") as file:
        torch.save(content, file)


def find_weights(path: Path) -> Path:
    """The file itself, or the one in a folder; UserError that says what would be taken."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    if (path / f"{WEIGHTS[0]}.index.json").is_file():
        raise UserError(f"{path}: its weights are split over several files, which mmkit does not read; join them first")
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    hint = f"it holds {', '.join(p.name for p in found)}: name one of them" if found else f"put {WEIGHTS[0]} there"
    raise UserError(f"{path}: none of {', '.join(WEIGHTS)} is in it; {hint}")


def _unpickled(path: Path) -> Any:
    if _is_torchscript(path):
        raise UserError(
            f"{path}: refused. This is a TorchScript archive: it holds a program beside the weights, and mmkit runs no "
            "code of a checkpoint. Of OpenAI's CLIP, whose files are such archives, take the same weights from the "
            "Hugging Face hub (hf:openai/clip-vit-base-patch32 and its sisters) or from open_clip "
            "(open_clip:ViT-B-32/openai); of another, if you trust its author, load it in a program of your own and "
            "save its state_dict alone, as safetensors"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # a plain holder of settings, in many checkpoints
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asks = re.search(r"GLOBAL (\S+)", str(error))  # the rest of the message is advice to read it unsafely
        what = "This pickle holds" if asks else "This is damaged, or a pickle that holds"
        raise UserError(
            f"{path}: refused. {what} more than tensors, and would run code of its author when it is read"
            f"{f' (it asks for {asks[1]})' if asks else ''}. Ask for a safetensors file; or, if you trust its author, "
            "load it in a program of your own and save its state_dict alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        said = (str(error).splitlines() or [""])[0]
        reason = said if said and not any(word in said for word in ADVICE) else type(error).__name__
        raise UserError(f"{path}: damaged, or not a file that torch.save wrote ({reason})") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == SCRIPT for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_state(content: Any) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        kinds = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:6]]
        return f"a mapping of {', '.join(kinds) or 'nothing'}"
    return f"a {type(content).__name__}"


def _config_of(path: Path) -> Mapping[str, Any]:
    names = ["config.json", OPEN_CLIP_CONFIG]
    files = [path.parent / name for name in (reversed(names) if path.name.startswith("open_clip") else names)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return {}
    return read_json(file)
