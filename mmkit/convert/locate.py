"""Where the weights that a config names lie: a file or folder here, or a file of the Hugging Face hub (or its cache).

``timm:NAME`` is a model of timm, ``hf:OWNER/NAME`` a repository of the hub; everything else is a path. Left out:
downloads from anywhere else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from mmkit.convert.pictures.read import PREPROCESSOR, PROCESSOR
from mmkit.convert.read_file import OPEN_CLIP_CONFIG, WEIGHTS, find_weights
from mmkit.errors import UserError

FORMS = 'a file or folder, "timm:NAME" or "hf:OWNER/NAME"'


def locate(source: str) -> Path:
    """The file; fetched from the hub where it is not in the cache.

    UserError where a path does not exist, a name is unknown, or the hub cannot be reached: then it says which file to
    fetch and where to put it.
    """
    kind, _, name = source.partition(":")
    if kind == "timm" and name:
        return _from_hub(source, _timm_repository(name))
    if kind == "hf" and name:
        return _from_hub(source, name)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{source}: no such file or folder; weights are given as {FORMS}")
    return find_weights(path)


def _timm_repository(name: str) -> str:
    import timm

    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if found is None or not found.hf_hub_id:
        near = difflib.get_close_matches(name, timm.list_models("*vit*") + timm.list_models("deit*"), 3)
        raise UserError(f"timm:{name}: timm has no such model with weights{f'; did you mean {near}?' if near else ''}")
    return str(found.hf_hub_id)


def hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached, found out in seconds; its own downloads try for a minute each."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # noqa: BLE001  its kind changes with the library that the hub's client is made of
        return False
    return True


def cached(repository: str, names: Iterable[str]) -> Path | None:
    """The first of these files of a repository that is in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = (try_to_load_from_cache(repository, name) for name in names)
        return next((Path(path) for path in found if isinstance(path, str)), None)
    except HFValidationError as error:
        raise UserError(f"{repository}: no name of the hub, which are OWNER/NAME ({error})") from error


def _from_hub(source: str, repository: str) -> Path:
    found = _fetch(repository) if hub_answers() else "it cannot be reached"
    if isinstance(found, Path):
        return found
    here = cached(repository, WEIGHTS)
    if here is not None:
        return here
    raise UserError(
        f"{source}: not in the cache, and not to be had from the Hugging Face hub ({found}). Where there is a network, "
        f"fetch https://huggingface.co/{repository}/resolve/main/{WEIGHTS[0]} and config.json beside it; put both in "
        f"a folder FOLDER here and write FOLDER in place of {source!r}"
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
