"""Where the weights that a config names lie: a file or folder here, or a file of the Hugging Face hub (or its cache).

``timm:NAME`` is a model of timm, ``hf:OWNER/NAME`` a repository of the hub; everything else is a path. Left out:
downloads from anywhere else.
"""

from __future__ import annotations

import difflib
from pathlib import Path

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


def _from_hub(source: str, repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    reason: Exception | None = None
    for name in WEIGHTS:
        try:
            found = Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:  # no network, and not in the cache
            reason = reason or error
            continue
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = error
            break
        _fetch_config(repository)
        return found
    why = str(reason).strip().splitlines()[0] if reason else f"it holds none of {', '.join(WEIGHTS)}"
    raise UserError(
        f"{source}: not in the cache, and not to be had from the Hugging Face hub ({why}). Where there is a network, "
        f"fetch https://huggingface.co/{repository}/resolve/main/{WEIGHTS[0]} and config.json beside it; put both in "
        f"a folder FOLDER here and write FOLDER in place of {source!r}"
    )


def _fetch_config(repository: str) -> None:
    """The sizes that tensors do not tell (heads, activation) stand there; not every repository has both."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for name in ("config.json", OPEN_CLIP_CONFIG):
        try:
            hf_hub_download(repository, name)
        except (EntryNotFoundError, HfHubHTTPError, OSError):
            continue
