"""The checks of where ``mmkit convert`` reads and writes, before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from mmkit.errors import UserError


def check_out(out: Path, source: str, kind: Literal["folder", "file"]) -> None:
    """UserError where ``out`` is taken, lies in the folder that is read, or cannot be made."""
    if kind == "file" and out.is_dir():
        raise UserError(f"{out}: is a folder; with --reverse OUT is a new file, such as {out / 'theirs.safetensors'}")
    if kind == "file" and out.exists():
        raise UserError(f"{out}: exists already; name a new file")
    if kind == "folder" and out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; OUT is a new folder")
    if kind == "folder" and out.is_dir() and any(out.iterdir()):
        holds = "holds a model already" if (out / "config.json").exists() else "is not empty"
        raise UserError(f"{out}: {holds}; name a new folder")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{out}: cannot be made, as {above} is a file")
    if not os.access(above, os.W_OK):
        raise UserError(f"{out}: cannot be made, as {above} cannot be written to")
    folder = Path(source).expanduser()
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out}: lies inside {folder}, which is read; name a place outside of it")
