"""The names of open_clip's models taken apart, see ``models.py``; without open_clip, which takes seconds to import."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmkit.convert.locate import OPEN_CLIP_CONFIG as CONFIG
from mmkit.errors import UserError
from mmkit.hub.files import OPEN_CLIP as PREFIX

log = logging.getLogger(__name__)

HUB, LOCAL = "hf-hub:", "local-dir:"
FORMS = (
    "open_clip:ARCH/TAG (see open_clip.list_pretrained()), open_clip:ARCH@FILE, open_clip:ARCH/TAG@FILE, "
    f"open_clip:FOLDER with {CONFIG}, or open_clip:hf-hub:OWNER/NAME"
)
OF_A_TAG = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True, kw_only=True)
class Name:
    """What follows ``open_clip:``. Either ``place`` ("local-dir:..." or "hf-hub:...") or ``arch`` with tag or file."""

    spec: str
    place: str = ""
    arch: str = ""
    tag: str = ""
    file: Path | None = None


def parse(spec: str) -> Name:
    """``open_clip:...`` taken apart; UserError, with the nearest names, for what open_clip does not know."""
    text = spec.removeprefix(PREFIX)
    if not text.strip():
        raise UserError(f"{spec}: which model? Give {FORMS}")
    if text.startswith(HUB):
        return Name(spec=spec, place=text)
    arch, at, file = text.partition("@")
    if not at and Path(text).is_dir():
        if not (Path(text) / CONFIG).is_file():
            raise UserError(f"{text}: holds no {CONFIG}; give a folder as open_clip saves it, or {PREFIX}ARCH@FILE")
        return Name(spec=spec, place=f"{LOCAL}{text}")
    if not at and (Path(text).is_file() or text.startswith((".", "/", "~"))):
        what = "is a file" if Path(text).is_file() else "no such folder"
        raise UserError(f"{text}: {what}. An open_clip model is one of: {FORMS}")
    known = architectures()
    arch, tag = _split(arch, known)
    if arch not in known:
        near = get_close_matches(arch, known, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(f"{spec}: open_clip knows no architecture {arch!r}{hint}. Forms: {FORMS}")
    if at and not Path(file).is_file():
        raise UserError(f"{file}: no such file; {PREFIX}ARCH@FILE needs the weights of an open_clip model there")
    if not at and not tag:
        import open_clip

        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        raise UserError(f"{spec}: which weights? Write {PREFIX}{arch}/TAG with one of: {tags}; or {PREFIX}{arch}@FILE")
    return Name(spec=spec, arch=arch, tag=tag, file=Path(file) if at else None)


def architectures() -> list[str]:
    """``open_clip.list_models()``, by the files beside its code where it is not imported yet."""
    spec = find_spec("open_clip")
    places = [] if spec is None else spec.submodule_search_locations or []
    files = [file for place in places for file in Path(place, "model_configs").glob("*.json")]
    if "open_clip" in sys.modules or not files:
        import open_clip

        return list(open_clip.list_models())
    return sorted(file.stem for file in files)


def _split(text: str, known: list[str]) -> tuple[str, str]:
    """ARCH[/TAG]; open_clip itself also writes "ViT-B/32" for "ViT-B-32"."""
    whole = text.replace("/", "-")
    if whole in known:
        return whole, ""
    arch, _, tag = text.rpartition("/")
    return (arch.replace("/", "-"), tag) if arch else (whole, "")


def tag_of(name: Name) -> Mapping[str, Any]:
    """What open_clip knows of the weights; of a file without a tag what all weights of its architecture share."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name.arch)
    if name.tag:
        found: Mapping[str, Any] = open_clip.get_pretrained_cfg(name.arch, name.tag)
        if not found:
            raise UserError(
                f"{name.spec}: no weights {name.tag!r} for {name.arch} in open_clip; it has {', '.join(tags) or 'none'}"
            )
        return found
    keys = (*OF_A_TAG, "quick_gelu")
    ways = [
        {key: value for key, value in open_clip.get_pretrained_cfg(name.arch, t).items() if key in keys} for t in tags
    ]
    if all(way == ways[0] for way in ways[1:]):
        return ways[0] if ways else {}
    log.warning(
        "%s: a file does not say with which activation and normalisation it was trained, and those of %s differ; "
        "taken: open_clip's defaults of the architecture. If it is one of %s, write %s%s/TAG@%s",
        name.spec, name.arch, ", ".join(tags), PREFIX, name.arch, name.file,
    )  # fmt: skip
    return {}
