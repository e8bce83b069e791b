"""What the layouts are called, see ``known.py``: told without their tables, which take seconds to import."""

from __future__ import annotations

from pathlib import Path

from mmkit.errors import UserError

NAMES = (
    "albef", "albef-vqa", "albef-retrieval", "albef-ve", "albef-nlvr2", "albef-assignment", "vilt", "vilt-transformers",
    "clip", "clip-transformers", "siglip", "siglip-transformers", "bert", "vit",
)  # fmt: skip


def check_name(name: str) -> None:
    """UserError for a name that no layout has, and for FILE.py:NAME without the file."""
    file, _, own = name.rpartition(":")
    if file.endswith(".py") and own and not Path(file).is_file():
        raise UserError(f"{name}: there is no file {file}; a layout of your own is given as FILE.py:NAME")
    if name not in NAMES and ".py:" not in name:
        raise UserError(f"there is no layout {name!r}; there are {', '.join(NAMES)}; or FILE.py:NAME, one of your own")
