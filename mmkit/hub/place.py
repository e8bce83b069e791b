"""Whether a model is where it is said to be: told at once, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkit.convert.locate import OPEN_CLIP_CONFIG
from mmkit.errors import UserError
from mmkit.hub.backbone.name import is_one
from mmkit.hub.backbone.name import parse as parse_backbone
from mmkit.hub.files import CONFIG, OPEN_CLIP, PREPROCESSING, TOKENIZER, WEIGHTS, has_words, needed, read_json
from mmkit.hub.open_clip.name import parse, tag_of

FORMAT = 1


def check(path: str | Path) -> None:
    """UserError, at once, where there is no such model to ``load``; what is inside of its files, but for
    the config's format, is not looked at.
    """
    if str(path).startswith(OPEN_CLIP):
        name = parse(str(path))
        if name.tag:
            tag_of(name)
        return
    if is_one(str(path)):
        parse_backbone(str(path))
        return
    folder, config = config_of(path)
    for name in (PREPROCESSING, *((TOKENIZER,) if has_words(config) else ()), WEIGHTS):
        needed(folder, name)


def config_of(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a model, and its config; UserError where there is none, or none that this version reads."""
    folder = _find(path)
    config = read_json(needed(folder, CONFIG))
    _check_format(folder / CONFIG, config)
    return folder, config


def _find(path: str | Path) -> Path:
    folder = Path(path)
    if (folder / CONFIG).is_file():
        return folder
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give the folder that holds {CONFIG} and {WEIGHTS}")
    if (folder / OPEN_CLIP_CONFIG).is_file():
        raise UserError(f"{folder}: a model of open_clip; write {OPEN_CLIP}{folder}")
    if not folder.is_dir():
        near = sorted(str(p.parent) for p in folder.parent.glob(f"*/{CONFIG}"))
        hint = f"; there is {', '.join(near[:5])}" if near else ""
        raise UserError(f"{folder}: no such folder{hint}. Give the folder of a run, as `mmkit train --out` made it")
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: this run has not saved a model yet; go on with `mmkit train ... --resume`")
    raise UserError(f"{folder}: holds no {CONFIG}; this is not the folder of a run or a saved model")


def _check_format(path: Path, saved: Mapping[str, Any]) -> None:
    if "format" not in saved:
        raise UserError(
            f"{path}: not of a model that mmkit saved; `mmkit info {path.parent}` says what it is and how to use it"
        )
    if saved["format"] != FORMAT:
        raise UserError(
            f"{path}: format {saved['format']}, this version of mmkit reads {FORMAT}; "
            f"written by mmkit {saved.get('mmkit', 'unknown')}. Load it with that version"
        )
