"""Which of the published forms a JSON file is in, from its beginning."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from mmkit.data.text_files import decode

Form = Literal["karpathy", "albef", "coco", "vqa", "vg-qa", "albef-vqa", "gqa", "lines", "unknown"]

GIVES = dict.fromkeys(("karpathy", "albef"), frozenset({"caption"})) | {"coco": frozenset({"caption", "boxes"})}
GIVES |= dict.fromkeys(("vqa", "vg-qa", "albef-vqa", "gqa"), frozenset({"question"}))
"""What the records of a form hold; lines hold anything."""

BEGINNING = 1 << 20


def form_of(path: str | Path) -> Form:
    """The form of a file; "unknown" where its beginning does not tell, or it cannot be read (who opens it says why)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(BEGINNING)
        text = decode(data[: data.rfind(b"}") + 1] if len(data) == BEGINNING else data, first=True).lstrip()
    except (OSError, ValueError):
        return "unknown"
    first, end = _first(text[1:].lstrip() if text.startswith("[") else text)
    keys = set(first) if first is not None else set(re.findall(r'"([A-Za-z_]+)"\s*:', text))
    if text.startswith("["):
        of: dict[str, Form] = {"qas": "vg-qa", "question": "albef-vqa", "caption": "albef"}
        return next((form for key, form in of.items() if key in keys), "unknown")
    if first is not None and text[end:].strip() and "\n" in text.strip():
        return "lines"
    if first is not None and keys & {"image", "question"} and not keys & {"images", "questions"}:
        return "lines"
    if "questions" in keys:
        return "vqa"
    if re.search(r'"imageId"\s*:', text):
        return "gqa"
    is_coco = {"images", "annotations"} <= keys or "file_name" in keys or "coco_url" in keys
    return "karpathy" if _sentences(first, text) else "coco" if is_coco else "unknown"


def _sentences(first: Any, text: str) -> bool:
    return re.search(r'"(sentences|imgid|sentids)"\s*:', text) is not None or (
        isinstance(first, dict) and "images" in first and "annotations" not in first
    )


def _first(text: str) -> tuple[dict[str, Any] | None, int]:
    """The object that a text begins with and where it ends; None where it is cut, or is none."""
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
    return (found, end) if isinstance(found, dict) else (None, 0)
