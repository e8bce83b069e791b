"""From published forms to mmkit's own: one JSON object per line, pictures by path; and sources by their short names.

For ``mmkit data import``. Records keep what they hold: captions, image ids, and all targets that JSON can say. Pictures
that are files stay where they are, named relative to the new file; those made in memory are saved beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmkit.data.formats import FORMATS
from mmkit.data.image_io import load_image
from mmkit.data.records import Problems, Record, Source
from mmkit.data.sources.table import Table
from mmkit.data.sources.table_file import columns_of
from mmkit.data.text_files import read_json
from mmkit.data.vqa_files import AnswerLists, Joined, VisualGenomeQA, VQAFiles, VQALines
from mmkit.errors import UserError

parse_table_columns = columns_of
BUILT_IN = ("openmoji-questions", "openmoji-pairs", "openmoji-hypotheses", "easy-vqa")
N = 2000  # records of a generated source


def built_in(name: str, n: int = N) -> Source | None:
    """The source that a name such as ``openmoji-questions:test`` stands for, or None; UserError for a wrong split."""
    kind, _, split = name.partition(":")
    if kind not in BUILT_IN or Path(name).exists():
        return None
    split = split or "train"
    if kind == "easy-vqa":
        from mmkit.data.easy_vqa import EasyVQA

        return EasyVQA(split=split)  # type: ignore[arg-type]  # checked there
    from mmkit.data.openmoji_hypotheses import Hypotheses
    from mmkit.data.openmoji_pairs import Pairs
    from mmkit.data.openmoji_questions import Questions

    makers: dict[str, Callable[..., Source]] = {"questions": Questions, "pairs": Pairs, "hypotheses": Hypotheses}
    return makers[kind.removeprefix("openmoji-")](split=split, n=n, plain=True)


def open_format(
    kind: str,
    path: str,
    *,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """A source of one of ``FORMATS``. images: the folder of the pictures, default that of the file."""
    _refuse(kind, {"annotations": (annotations, ("vqa",)), "split": (split, ("karpathy",))})
    _refuse(kind, {"columns": (columns, ("csv",)), "images": (images, tuple(f for f in FORMATS if f != "builtin"))})
    folder = Path(images) if images is not None else Path(path).parent
    if kind == "builtin":
        return _built_in(path)
    if kind == "karpathy":
        from mmkit.data.karpathy import Karpathy

        return Karpathy(path, folder, split=split)
    if kind == "vqa":
        return VQAFiles(path, annotations, images=folder)
    makers: dict[str, Callable[[], Source]] = {
        "coco": lambda: CocoCaptions(path, images=folder),
        "vg-qa": lambda: VisualGenomeQA(path, images=folder),
        "albef-vqa": lambda: AnswerLists(path, images=folder),
        "csv": lambda: Table(path, columns=columns or {}, images=folder),
    }
    if kind not in makers:
        raise UserError(f"format {kind!r}; there are {', '.join(FORMATS)}")
    return makers[kind]()


def open_questions(data: str, *, annotations: str | Path | None = None, images: str | Path | None = None) -> Source:
    """Questions with answers: JSON lines, a published file (its form is looked up), or a name like ``easy-vqa``.

    annotations: of VQA's questions, which need them. images: the folder of the pictures, default that of the file.
    """
    source = built_in(data)
    if source is not None:
        _refuse(data, {"images": (images, ()), "annotations": (annotations, ())})
        return source
    if Path(data).suffix.lower() != ".json":
        if annotations is not None:
            raise UserError(f"--annotations {annotations}: has no meaning for {data}; it belongs to VQA's questions")
        return VQALines(data, root=images)
    whole = read_json(Path(data), "VQA's questions, Visual Genome's question_answers, or one of ALBEF's lists")
    if isinstance(whole, Mapping):
        if "questions" in whole and annotations is None:
            name = Path(data).name.replace("OpenEnded_", "").replace("questions", "annotations")
            raise UserError(
                f"{data}: VQA's questions alone; give the answers too, published beside them: --annotations "
                f"{Path(data).with_name(name) if name != Path(data).name else 'v2_mscoco_val2014_annotations.json'}"
            )
        return open_format("vqa", data, images=images, annotations=annotations)
    is_vg = isinstance(whole, list) and any(isinstance(row, Mapping) and "qas" in row for row in whole[:1])
    return open_format("vg-qa" if is_vg else "albef-vqa", data, images=images, annotations=annotations)


def open_all_questions(
    data: Sequence[str], *, annotations: Sequence[str] = (), images: Sequence[str | Path] = ()
) -> Source:
    """Several, one after the other. annotations: one for each file of VQA's questions, in order; the others have none.

    images: none, one for all, or one for each of ``data``.
    """
    whose = [name for name in data if _is_object(name)]
    if annotations and len(annotations) != len(whose):
        raise UserError(
            f"{len(annotations)} --annotations for {len(whose)} files of VQA's questions "
            f"({', '.join(whose) or 'none of --data is one'}); give one for each of these, in order"
        )
    if len(images) not in (0, 1, len(data)):
        raise UserError(f"{len(images)} --images for {len(data)} --data; give one for all, or one for each, in order")
    given = iter(annotations)
    folders = [images[min(i, len(images) - 1)] if images else None for i in range(len(data))]
    return Joined([
        open_questions(name, annotations=next(given, None) if name in whose else None, images=folder)
        for name, folder in zip(data, folders, strict=True)
    ])  # fmt: skip


def _is_object(name: str) -> bool:
    """Whether a file holds one JSON object, as VQA's do, and not a list."""
    if Path(name).suffix.lower() != ".json":
        return False
    try:
        with Path(name).open(encoding="utf-8-sig") as file:
            return file.read(200).lstrip().startswith("{")
    except (OSError, UnicodeDecodeError):
        return False  # to be told by who opens it


def _refuse(kind: str, given: Mapping[str, tuple[object, tuple[str, ...]]]) -> None:
    for name, (value, fit) in given.items():
        if value and kind not in fit:
            what = f"the format {kind}; it is for {', '.join(fit)}" if fit else kind
            raise UserError(f"--{name}: has no meaning for {what}")


def _built_in(name: str) -> Source:
    source = built_in(name)
    if source is not None:
        return source
    kind, _, split = name.partition(":")
    if kind != "openmoji":
        raise UserError(f"{name}: not built in; there are openmoji, {', '.join(BUILT_IN)}, each also with :SPLIT")
    from mmkit.data.openmoji import Scenes

    return Scenes(split=split or "train", n=N, plain=True)  # type: ignore[arg-type]  # checked there


class CocoCaptions:
    """COCO's own ``captions_val2014.json``: a record for each picture with all its captions, in the file's order."""

    def __init__(self, path: str | Path, *, images: str | Path) -> None:
        self.path, self.images = Path(path), Path(images)
        data = read_json(self.path, "COCO's captions")
        if not isinstance(data, Mapping) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
            raise UserError(f'{path}: expected an object with the lists "images" and "annotations"')
        problems = Problems(self.path, unit="row")
        captions: dict[Any, list[str]] = {image.get("id"): [] for image in data["images"]}
        for at, row in enumerate(data["annotations"]):
            if row.get("image_id") not in captions or not str(row.get("caption", "")).strip():
                problems.add(at, "bad annotation", '"image_id" is of no picture of the file, or "caption" is empty')
            else:
                captions[row["image_id"]].append(str(row["caption"]).strip())
        self._rows = [(str(i["file_name"]), tuple(captions[i["id"]])) for i in data["images"] if captions[i["id"]]]
        for at, (name, _) in enumerate(self._rows):
            if not (self.images / name).is_file():
                problems.add(at, "missing picture", f"no picture {self.images / name}")
        problems.raise_if_any(len(data["annotations"]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        name, captions = self._rows[index]
        return Record(image=self.images / name, captions=captions, image_id=name, key=f"{self.path}[{index}]")


def write_records(
    source: Source, path: str | Path, *, limit: int | None = None, progress: Callable[[int, int], object] | None = None
) -> int:
    """Write a new file of JSON lines, which appears when it is whole; the number of records.

    limit: only the first so many. progress: called with (done, total). Pictures in memory are saved as PNG in the
    folder ``STEM-images`` beside the file. UserError for a file that is there already or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists already; name a new file, or remove it")
    n = len(source) if limit is None else min(limit, len(source))
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            for i in range(n):
                file.write(json.dumps(_row(source[i], path, f"{i:06d}"), ensure_ascii=False) + "\n")
                if progress is not None:
                    progress(i + 1, n)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return n


def _row(record: Record, path: Path, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"image": _picture(record.image, path, name), "image_id": record.image_id}
    if record.captions and "question" not in record.targets:
        row["caption"] = list(record.captions) if len(record.captions) > 1 else record.captions[0]
    for key, value in record.targets.items():
        # a target may be a picture too (the second one of a pair)
        is_picture = isinstance(value, Image.Image | Path | bytes)
        row[key] = _picture(value, path, f"{name}-{key}") if is_picture else value
    return row


def _picture(image: Image.Image | Path | bytes, path: Path, name: str) -> str:
    """The picture's path relative to the file, saved first where it has none."""
    if isinstance(image, Path):
        return Path(os.path.relpath(image, path.parent)).as_posix()
    folder = path.with_name(f"{path.stem}-images")
    folder.mkdir(exist_ok=True)
    load_image(image).save(folder / f"{name}.png")
    return f"{folder.name}/{name}.png"
