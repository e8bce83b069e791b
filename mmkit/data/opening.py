"""What ``--data`` names on the command line: a folder, a table, records, a published list, a data set, openmoji."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkit.data.karpathy import Karpathy
from mmkit.data.records import JsonLines, Source
from mmkit.data.sources import ClassFolder, ClassTable, Folder, HuggingFace
from mmkit.errors import UserError

HUB = "hf:"
TABLES = (".csv", ".tsv")
ARROW = (".parquet", ".arrow")
LABELLED = (
    "a folder of class folders, a CSV with the columns path and label, JSON lines with image and label, a folder or "
    "file of Parquet or Arrow, hf:NAME of a data set, or openmoji[:LANGUAGE]"
)
CAPTIONED = (
    "JSON lines with image and caption, dataset_coco.json, dataset_flickr30k.json or a list of ALBEF's, a folder with "
    "captions beside the pictures, a folder or file of Parquet or Arrow, hf:NAME of a data set, or openmoji[:LANGUAGE]"
)


def parse_columns(text: str | None, known: Sequence[str]) -> dict[str, str]:
    """``image=img,label=fine_label`` as a mapping; UserError for another form or an unknown field."""
    columns: dict[str, str] = {}
    for part in text.split(",") if text else ():
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column or field not in known:
            raise UserError(
                f"--columns {text}: write FIELD=COLUMN, separated by commas, with FIELD one of {', '.join(known)}"
            )
        columns[field] = column
    return columns


def open_labelled(data: str, *, columns: Mapping[str, str] | None = None, split: str | None = None) -> Source:
    """Pictures with classes. columns: {"image": ..., "label": ...}; split: of a data set (default "test")."""
    columns = dict(columns or {})
    path = Path(data)
    if _is_openmoji(data):
        from mmkit.data.openmoji import Singles

        refuse(data, {"columns": columns, "split": split})
        return Singles(language=_language(data), plain=True)
    if is_data_set(data):
        return HuggingFace(
            data.removeprefix(HUB), split=split or "test", image=columns.get("image", "image"), caption=None,
            targets={"label": columns.get("label", "label")},
        )  # fmt: skip
    refuse(data, {"split": split})
    if path.suffix.lower() in TABLES:
        return ClassTable(path, image=columns.get("image", "path"), label=columns.get("label", "label"))
    refuse(data, {"columns": columns})
    _there(path, LABELLED)
    return ClassFolder(path) if path.is_dir() else JsonLines(path, needs=("image", "label"))


def own_classes(data: str) -> str | None:
    """The built-in class set, by name, that belongs to what ``--data`` names; None where it brings its own labels."""
    return data if _is_openmoji(data) else None


def open_captioned(
    data: str, *, columns: Mapping[str, str] | None = None, split: str | None = None, images: str | None = None,
    captions: bool = True,
) -> Source:  # fmt: skip
    """Pictures with captions. images: the folder of a published list's pictures (default: where the list is).

    captions: False = those of a data set are not read, and need not be there.
    """
    columns = dict(columns or {})
    path = Path(data)
    if _is_openmoji(data):
        from mmkit.data.openmoji import Scenes

        refuse(data, {"columns": columns, "split": split, "images": images})
        return Scenes(split="test", n=500, language=_language(data), plain=True)
    if is_data_set(data):
        refuse(data, {"images": images})
        return HuggingFace(
            data.removeprefix(HUB), split=split or "test", image=columns.get("image", "image"),
            caption=columns.get("caption", "caption") if captions else None, image_id=columns.get("image_id"),
        )  # fmt: skip
    refuse(data, {"columns": columns})
    if path.suffix.lower() == ".json":
        return Karpathy(path, images or path.parent, split=split)
    refuse(data, {"split": split, "images": images})
    _there(path, CAPTIONED)
    return Folder(path) if path.is_dir() else JsonLines(path)


def _is_openmoji(data: str) -> bool:
    return data.partition(":")[0] == "openmoji" and not Path(data).exists()


def _language(data: str) -> str:
    return data.partition(":")[2] or "en"


def is_data_set(data: str) -> bool:
    """``hf:...``, or what ``datasets`` wrote: Parquet or Arrow, alone or in a folder."""
    path = Path(data)
    if data.startswith(HUB) or path.suffix.lower() in ARROW:
        return True
    if not path.is_dir():
        return False
    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    return saved or any(p.suffix.lower() in ARROW for folder in (path, path / "data") for p in folder.glob("*"))


def refuse(data: str, given: Mapping[str, object]) -> None:
    """UserError for an option that means nothing for this kind of data."""
    for name, value in given.items():
        if value:
            raise UserError(f"--{name}: has no meaning for {data}")


def _there(path: Path, forms: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give {forms}")
