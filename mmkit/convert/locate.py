"""Where the weights that a config names lie: a file or folder here, or a file of the Hugging Face hub (or its cache).

``timm:NAME`` is a model of timm, ``hf:OWNER/NAME`` a repository of the hub; everything else is a path. Left out:
downloads from anywhere else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmkit import network
from mmkit.data.images.formats import kind_of, suffix_of
from mmkit.errors import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
INDEX = ".index.json"
PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
PICTURES = (PROCESSOR, PREPROCESSOR, OPEN_CLIP_CONFIG)
"""The files beside weights that tell how pictures are read; that which counts comes first."""
FORMS = 'a file or folder, "timm:NAME" or "hf:OWNER/NAME"'


def locate(source: str, as_file: str = "") -> Path:
    """The file; fetched from the hub where it is not in the cache.

    as_file: how the caller's user names such weights in a file here; "" = by the folder. UserError where a path does
    not exist, a name is unknown, or the hub cannot be reached: then it says which file to fetch and where to put it.
    """
    kind, _, name = source.partition(":")
    if kind == "timm" and name:
        return _from_hub(source, _timm_repository(name), as_file)
    if kind == "hf" and name:
        return _from_hub(source, name)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{source}: no such file or folder; weights are given as {FORMS}")
    found = find_weights(path)
    if not found.name.endswith(INDEX):
        check_is_weights(found)
    return found


def find_weights(path: Path) -> Path:
    """The file itself, or the one in a folder; UserError that says what would be taken."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    for name in (*WEIGHTS, *(f"{name}{INDEX}" for name in WEIGHTS)):
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    hint = f"it holds {', '.join(p.name for p in found)}: name one of them" if found else f"put {WEIGHTS[0]} there"
    raise UserError(f"{path}: none of {', '.join(WEIGHTS)} is in it; {hint}")


def check_is_weights(path: Path) -> None:
    """UserError for a file that begins as no weights do, which says what it is."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise UserError(f"{path}: an empty file; copy or download it again")
    if head[:2] == b"PK" or head[:1] == b"\x80" or head[8:9] == b"{":  # torch.save, a pickle, safetensors
        return
    if kind := f"a picture ({suffix_of(head)})" if suffix_of(head) else kind_of(head):
        raise UserError(f"{path}: {kind}, no checkpoint")
    raise UserError(
        f"{path}: no weights, or damaged: neither a safetensors file nor one that torch.save wrote; give one of those, "
        "or the folder of a model"
    )


def known_to_timm(source: str) -> Any:
    """What timm says of the weights "timm:NAME"; None of a name that it does not know, and of other sources."""
    if not source.startswith("timm:"):
        return None
    import timm

    try:
        return timm.get_pretrained_cfg(source.removeprefix("timm:"), allow_unregistered=True)
    except RuntimeError:  # a network that it has, with other weights than the name says
        return None


def _timm_repository(name: str) -> str:
    import timm

    found = known_to_timm(f"timm:{name}")
    if found is None or not found.hf_hub_id:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*") or timm.list_models(["*vit*", "deit*"])
        near = difflib.get_close_matches(name, known, 3)
        raise UserError(f"timm:{name}: timm has no such model with weights{f'; did you mean {near}?' if near else ''}")
    return str(found.hf_hub_id)


def cached(repository: str, names: Iterable[str]) -> Path | None:
    """The first of these files of a repository that is in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = (try_to_load_from_cache(repository, name) for name in names)
        return next((Path(path) for path in found if isinstance(path, str)), None)
    except HFValidationError as error:
        raise UserError(f"{repository}: no name of the hub, which are OWNER/NAME ({error})") from error


def _from_hub(source: str, repository: str, as_file: str = "") -> Path:
    found = _fetch(repository) if network.hub_answers() else "it cannot be reached"
    if isinstance(found, Path):
        return found
    if (here := cached(repository, WEIGHTS)) is not None:
        return here
    then = f", and write {as_file}" if as_file else (
        f" and config.json beside it; put both in a folder FOLDER here and write FOLDER in place of {source!r}"
    )  # fmt: skip
    raise UserError(
        f"{source}: not in the cache, and not to be had from the Hugging Face hub ({found}). Where there is a network, "
        f"fetch https://huggingface.co/{repository}/resolve/main/{WEIGHTS[0]}{then}"
    )


def _fetch(repository: str) -> Path | str:
    """The weights of a repository, its config beside them; or why there are none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for name in WEIGHTS:
        try:
            found = Path(hf_hub_download(repository, name))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # it has stopped answering
                return str(error).strip().splitlines()[0]
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            return str(error).strip().splitlines()[0]
        _fetch_config(repository)
        return found
    return f"it holds none of {', '.join(WEIGHTS)}"


def _fetch_config(repository: str) -> None:
    """What tensors do not tell (heads, activation, how pictures are read); not every repository has all of them."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for name in ("config.json", OPEN_CLIP_CONFIG, PREPROCESSOR, PROCESSOR):
        try:
            hf_hub_download(repository, name)
        except (EntryNotFoundError, HfHubHTTPError, OSError):
            continue
