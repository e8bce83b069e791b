"""Weights from a file that somebody else made: safetensors, or a pickle of tensors and nothing more.

A pickle is a program. It is read by PyTorch's restricted reader, which knows tensors, containers, numbers and texts,
and is refused when it asks for anything else, as is a TorchScript archive, which holds code. What stands around the
weights (``model``, ``state_dict``, ``module.``, ``_orig_mod.``) is taken off, said and remembered, to be put back.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmkit.convert.locate import INDEX, OPEN_CLIP_CONFIG, find_weights
from mmkit.convert.tables.table import State
from mmkit.errors import UserError, shortened
from mmkit.files import inside, read_json, write_tensors, writing

log = logging.getLogger(__name__)

WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "params", "net", "network", "weights")
AVERAGED = ("model_ema", "ema", "params_ema", "ema_state_dict", "state_dict_ema", "model_ema_state_dict", "ema_model")
PARALLEL, COMPILED = "module.", "_orig_mod."
PREFIXES = (PARALLEL, COMPILED, "net.", "model.", "state_dict.")
PLAIN = (type(None), bool, int, float, str, np.generic, argparse.Namespace)
SCALARS = ("logit_scale", "logit_bias", "temp")
NUMBERS = [np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}]
SCALAR: Any = np.float64(0).__reduce__()[0]  # makes a number of numpy, which many training programs leave in files
SCRIPT = "constants.pkl"  # every TorchScript archive has one, and no file of torch.save
ADVICE = ("weights_only", "safe_globals")  # a reason of PyTorch's with one of these tells how to read it unsafely


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights, and what came with them.

    path: of the file. state: the weights. wrapper: the keys under which they lay ("model"). others: keys of weights
    that were not taken, each one for ``--weights``. prefix: what every name began with. parallel: whether that was
    "module." alone. beside: what else the file holds (epoch, optimizer, ...).
    config: the ``config.json`` or ``open_clip_config.json`` in the same folder.
    """

    path: Path
    state: State
    wrapper: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    parallel: bool = False
    prefix: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, weights: str | None = None) -> Checkpoint:
    """The weights of a file, or of the folder that holds it.

    weights: under which key, where a file holds several; None = those of training, and it is said.

    UserError where there is none, where it is damaged, and where a pickle asks for more than tensors.
    """
    path = find_weights(Path(path))
    content = _sharded(path) if path.name.endswith(INDEX) else _content(path)
    beside: dict[str, Any] = {}
    wrapper: list[str] = []
    several = _wrapped(content)
    while (wrapped := _wrapped(content)) or not _is_state(content):
        name = _chosen(path, wrapped, None if wrapper else weights) if wrapped else None
        if name is None:
            places = ", ".join((*WRAPPERS, *AVERAGED))
            raise UserError(f"{path}: holds no weights, but {_described(content)}; looked for under {places}")
        beside |= {str(key): value for key, value in content.items() if key != name}
        content = content[name]
        wrapper.append(name)
    if weights is not None and wrapper[:1] != [weights]:
        raise UserError(
            f"{path}: --weights {weights}: there are no weights of that name; it holds {_described(content)}"
        )
    beside |= {key: value for key, value in content.items() if not isinstance(_as_tensor(key, value), Tensor)}
    state = {key: _as_tensor(key, value) for key, value in content.items() if key not in beside}
    prefix, state = _bare(state)
    if prefix:
        log.info("%s: every name begins with %r, which is taken off", path.name, prefix)
    return Checkpoint(
        path=path, state=state, wrapper=tuple(wrapper), others=tuple(key for key in several if key not in wrapper[:1]),
        parallel=prefix == PARALLEL, prefix=prefix, beside=beside, config=_config_of(path),
    )  # fmt: skip


def _content(path: Path) -> Any:
    if path.suffix != ".safetensors" and not _is_safetensors(path):
        return _unpickled(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or not a safetensors file ({error})") from error


def _sharded(index: Path) -> State:
    """The weights that an index spreads over several files in its folder. UserError for one that is not there."""
    names = read_json(index, strict=True).get("weight_map")
    if not isinstance(names, Mapping) or not all(isinstance(file, str) for file in names.values()):
        raise UserError(f"{index}: has no weight_map, which says in which file each tensor is")
    found: dict[str, Any] = {}
    for file in sorted(set(names.values())):
        part = inside(index.parent, file)
        if not part.is_file():
            raise UserError(f"{index}: names {file}, which is not beside it; copy or download it too")
        found |= _content(part)
    if missing := sorted(names.keys() - found.keys()):
        raise UserError(f"{index}: its files lack {shortened(missing, 4)}; copy or download them again")
    return {name: found[name] for name in names}


def _wrapped(content: Any) -> list[str]:
    """The keys under which weights may lie, those of training before averages of them."""
    if not isinstance(content, Mapping):
        return []
    return [key for key in (*WRAPPERS, *AVERAGED) if _is_state(content.get(key)) or _wrapped(content.get(key))]


def _chosen(path: Path, names: list[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in names:
            raise UserError(f"{path}: --weights {wanted}: there are no such weights; it holds {', '.join(names)}")
        return wanted
    if len(names) > 1:
        log.warning("%s holds weights under %s: those under %s are taken; --weights %s takes others", path.name,
                    ", ".join(names), names[0], "|".join(names[1:]))  # fmt: skip
    return names[0]


def _as_tensor(key: str, value: Any) -> Any:
    """A number that stands for a learned scalar as one; the rest as it is."""
    is_number = isinstance(value, float | np.floating) and key.rpartition(".")[2] in SCALARS
    return torch.tensor(float(value)) if is_number else value


def _bare(state: State) -> tuple[str, State]:
    """What stands before every name, as wrappers of PyTorch, Lightning and others put it there, and the state without.

    The marks of compiled parts are taken off within names too.
    """
    prefix = ""
    while found := next((p for p in PREFIXES if all(name.startswith(p) for name in state) and not _ours(state)), ""):
        prefix += found
        state = {name.removeprefix(found): value for name, value in state.items()}
    return prefix, {name.replace(COMPILED, ""): value for name, value in state.items()}


def _ours(state: State) -> bool:
    """Whether these are the names that mmkit saves a model under, which begin with "model." as Lightning's do."""
    return any(name.startswith(("model.image.", "model.text.", "heads.")) for name in state)


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
        safe: list[Any] = [argparse.Namespace, *NUMBERS, SCALAR, (SCALAR, "numpy.core.multiarray.scalar")]
        with torch.serialization.safe_globals(safe):  # plain holders of settings and numbers
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


def _is_safetensors(path: Path) -> bool:
    """By how it begins, whatever it is called: the length of a JSON object, and that."""
    with path.open("rb") as file:
        size, brace = file.read(8), file.read(1)
    return brace == b"{" and int.from_bytes(size, "little") < path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == SCRIPT for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_state(content: Any) -> bool:
    """Whether these are tensors by name, perhaps with others beside them, such as a step."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return False
    tensors = [key for key, value in content.items() if isinstance(value, Tensor)]
    others = [value for value in content.values() if not isinstance(value, Tensor)]
    return bool(tensors) and (any("." in key for key in tensors) or all(isinstance(value, PLAIN) for value in others))


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        kinds = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:6]]
        return f"a mapping of {', '.join(kinds) or 'nothing'}"
    return f"a {type(content).__name__}"


def _config_of(path: Path) -> Mapping[str, Any]:
    names = ["config.json", OPEN_CLIP_CONFIG]
    files = [path.parent / name for name in (reversed(names) if path.name.startswith("open_clip") else names)]
    file = next((file for file in files if file.is_file()), None)
    return {} if file is None else read_json(file)
