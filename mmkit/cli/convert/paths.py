"""The checks of where ``mmkit convert`` reads and writes, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmkit.errors import UserError
from mmkit.files import check_writable


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
    check_writable(out / "new" if kind == "folder" else out, str(out))
    folder = Path(source).expanduser()
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out}: lies inside {folder}, which is read; name a place outside of it")
