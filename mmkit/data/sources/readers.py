"""How each kind of data is read, with what is wanted of it; ``open.py`` chooses among these."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmkit.data.problems import is_collecting
from mmkit.data.records import JsonLines, Source, renamed
from mmkit.data.remote import is_url
from mmkit.data.sources.boxes.annotated import read_coco_folder
from mmkit.data.sources.boxes.coco import Instances
from mmkit.data.sources.boxes.flickr import FlickrEntities
from mmkit.data.sources.boxes.odvg import Odvg
from mmkit.data.sources.boxes.voc import Voc
from mmkit.data.sources.boxes.yolo import Yolo
from mmkit.data.sources.class_folder import SPLITS, ClassFolder, is_class_folder
from mmkit.data.sources.delimited import TableFile
from mmkit.data.sources.folder import Folder
from mmkit.data.sources.hugging_face import HuggingFace, columns_in
from mmkit.data.sources.index import INDEX
from mmkit.data.sources.published.coco_captions import CocoCaptions
from mmkit.data.sources.published.json_form import GIVES, form_of
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.data.sources.published.refcoco import Referring
from mmkit.data.sources.published.vqa import AnswerLists, GQAQuestions, VisualGenomeQA, VQAFiles, VQALines
from mmkit.data.sources.questions import Asked
from mmkit.data.sources.shards import Shards
from mmkit.data.sources.table import NAMES, ClassTable, Table
from mmkit.data.sources.walk import walk
from mmkit.data.text_files import parse_json, read_json
from mmkit.errors import UserError

log = logging.getLogger(__name__)

HUB = "hf:"
ARROW = (".parquet", ".arrow")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
EVERYTHING = frozenset({"caption", "label", "question", "boxes"})
Wants = frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be said beside the data; see ``open_source``."""

    columns: Mapping[str, str] | None = None
    split: str | None = None
    images: str | Path | None = None
    annotations: str | Path | None = None
    pictures: str | None = None
    answers_needed: bool = True
    outlines: bool = False

    def refuse(self, spec: str, *, but: Collection[str] = ()) -> None:
        """UserError for an option that means nothing for this kind of data."""
        for one in fields(self):
            if one.name not in (*but, "answers_needed") and getattr(self, one.name):
                raise UserError(f"--{one.name}: has no meaning for {spec}")


def is_data_set(spec: str) -> bool:
    """``hf:...``, or what ``datasets`` wrote: Parquet or Arrow, alone or in a folder without pictures."""
    path = Path(spec)
    if is_url(spec):
        return path.suffix.lower() in ARROW
    if spec.startswith(HUB) or path.suffix.lower() in ARROW:
        return True
    if not path.is_dir():
        return False
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return True
    shards = {p.stem for p in path.glob("*.tar")}  # img2dataset writes a table beside each, without the pictures
    files = (p for folder in (path, path / "data") for p in folder.glob("*") if p.stem not in shards)
    return any(p.suffix.lower() in ARROW and p.name != INDEX for p in files) and not walk(path).pictures


def metadata_in(folder: Path) -> Path | None:
    """The file of what ``datasets`` calls an image folder, with file_name and text, or others, for each picture."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: {' and '.join(path.name for path in found)} may say different things; keep one")
    return found[0] if found else None


def read_data_set(name: str, wants: Wants, given: Options, in_order: bool = True) -> Source:
    """A data set of ``datasets``, by its columns; those that are wanted, or all that are known."""
    columns, name, split = dict(given.columns or {}), name.removeprefix(HUB), given.split or "test"
    if not name.strip():
        raise UserError(f"{HUB}{name}: names no data set; give {HUB}OWNER/NAME, or a folder")
    there = columns_in(name, split)
    targets = {field: columns[field] for field in columns if field not in ("image", "video", "caption", "image_id")}
    known = ("label", "question", "answers", "boxes")
    for field in (*known, *sorted(wants - {*known, "image", "caption", "image_id"})):  # such as a rating
        if field in wants or (not wants and field in there):
            targets.setdefault(field, next((own for own in NAMES.get(field, (field,)) if own in there), field))
    for field in () if given.answers_needed else ("answers", "label"):
        if targets.get(field) not in there:
            targets.pop(field, None)
    if "question" in targets and "answers" not in targets:
        found = next((own for own in NAMES["answers"] if own in there), None)
        targets |= {} if found is None else {"answers": found}
    caption = columns.get("caption", "caption")
    may = not wants or "boxes" in wants  # whose names a caption may say
    is_wanted = "caption" in wants or "caption" in columns or (may and caption in there)
    image_id = columns.get("image_id", "image_id" if "image_id" in there else None)
    source = HuggingFace(
        name, split=split, image=columns.get("image", "image"), video=_video_in(name, columns, there),
        caption=caption if is_wanted else None, image_id=image_id, targets=targets, in_order=in_order,
    )  # fmt: skip
    if "question" not in wants and ("question" not in targets or source.caption is not None):
        return source
    return Asked(source, where=name, answers_needed="question" in wants and given.answers_needed)


def _video_in(name: str, columns: Mapping[str, str], there: Collection[str]) -> str | None:
    """The column of clips: the one that is named so, or "video" where there is no picture; None = pictures are read."""
    if {"image", "video"} <= columns.keys():
        raise UserError(
            f"--columns image={columns['image']},video={columns['video']}: a record shows a picture or a clip; give one"
        )
    if "video" in columns or "image" in columns or "video" not in there:
        return columns.get("video")
    if "image" in there:
        log.info("%s: its pictures are read; its clips: --columns video=video", name)
        return None
    return "video"


def read_table(name: str, wants: Wants, given: Options) -> Source:
    """A table, by its columns."""
    columns, images = given.columns or {}, given.images
    if not wants and not columns.keys() - {"image", "video", "image_id"}:
        wants = _held(name, columns)
    if "question" in wants:
        needs, may = (("question", "answers"), ()) if given.answers_needed else (("question",), ("answers",))
        table = Table(name, columns=columns, images=images, needs=needs, may=may)
        line = table.lines.__getitem__
        return Asked(table, where=name, answers_needed=given.answers_needed, unit="line", number=line)
    if wants == {"label"} and not given.answers_needed:
        return Table(name, columns=columns, images=images, needs=(), may=("label",))
    if wants == {"label"} and not columns.keys() - {"image", "label"}:
        named = {field: columns[field] for field in ("image", "label") if field in columns}
        return ClassTable(name, **named, root=images)
    return Table(name, columns=columns, images=images, needs=tuple(sorted(wants)) or None)


def _held(name: str, columns: Mapping[str, str]) -> Wants:
    """What a table without captions holds, by its header: questions or labels."""
    known = {field: NAMES[field] for field in ("image", "image_id", "caption", "question", "label")}
    try:
        found = TableFile(Path(name), wanted=known, named=dict(columns), needs=()).columns
    except UserError:
        return frozenset()  # what is wrong is told by who reads it
    kinds = [] if "caption" in found else [field for field in ("question", "label") if field in found]
    return frozenset(kinds[:1])


def read_published(name: str, wants: Wants, given: Options, form: str | None = None) -> Source:
    """A JSON file of one of the published forms, or of this one."""
    form, images = form or form_of(name), given.images or Path(name).parent
    if not wants <= GIVES.get(form, EVERYTHING):
        raise UserError(f"{name}: holds {', '.join(GIVES[form])}s, no {', '.join(sorted(wants - GIVES[form]))}s")
    takes: dict[str, tuple[str, ...]] = dict.fromkeys(("karpathy", "albef", "unknown"), ("split", "images"))
    takes |= {"vqa": ("images", "annotations", "pictures"), "coco": ("images", "outlines")}
    given.refuse(name, but=takes.get(form, ("images",)))
    if form == "vqa":
        return _vqa(name, given)
    lists: dict[str, Any] = {"vg-qa": VisualGenomeQA, "albef-vqa": AnswerLists, "gqa": GQAQuestions}
    if form in lists:
        return _answered(lists[form](name, images=images), name, wants, given)
    if form == "coco":
        return _coco(name, images, wants, given.outlines)
    return Karpathy(name, images, split=given.split)


def _coco(name: str, images: str | Path, wants: Wants, outlines: bool) -> Source:
    """Captions or boxes, by what the annotations of the file hold."""
    data = read_json(name, "COCO's annotations")
    of_boxes = isinstance(data, Mapping) and "categories" in data
    source: Instances | CocoCaptions = (
        Instances(name, images=images, data=data, outlines=outlines)
        if of_boxes
        else CocoCaptions(name, images=images, data=data)
    )
    if ("boxes" in wants or outlines) and not of_boxes:
        raise UserError(f"{name}: holds captions, no boxes; give instances_val2017.json, or one of its form")
    if "caption" in wants and next(iter(source.captions()), None) is None:
        raise UserError(f"{name}: holds boxes, no captions; give captions_val2017.json, or one of its form")
    return source


def read_coco(name: str, wants: Wants, given: Options) -> Source:
    """A folder with COCO's annotations."""
    return read_coco_folder(name, split=given.split, images=given.images, outlines=given.outlines)


def read_yolo(name: str, wants: Wants, given: Options) -> Source:
    """YOLO's YAML with what it leads to."""
    return Yolo(name, split=given.split)


def read_voc(name: str, wants: Wants, given: Options) -> Source:
    """VOC's XML."""
    return Voc(name, split=given.split)


def read_flickr(name: str, wants: Wants, given: Options) -> Source:
    """Flickr30k Entities."""
    return FlickrEntities(name, images=given.images, split=given.split)


def read_odvg(name: str, wants: Wants, given: Options) -> Source:
    """Lines of ODVG; UserError where captions are wanted and none has one."""
    source = Odvg(name, images=given.images or Path(name).parent)
    if "caption" in wants and next(iter(source.captions()), None) is None:
        raise UserError(f"{name}: holds boxes with classes, no captions")
    return source


def is_refs(name: str) -> bool:
    """Whether a name is that of RefCOCO's pickle."""
    return Path(name).suffix == ".p" and Path(name).name.startswith("refs(")


def read_refs(name: str, wants: Wants, given: Options) -> Source:
    """RefCOCO's references; instances.json lies beside, or is given as annotations."""
    return Referring(name, given.images or Path(name).parent, instances=given.annotations, split=given.split)


def _vqa(name: str, given: Options) -> Source:
    if given.annotations is None and given.answers_needed:
        own = Path(name).name.replace("OpenEnded_", "").replace("questions", "annotations")
        raise UserError(
            f"{name}: VQA's questions alone; give the answers too, published beside them: --annotations "
            f"{Path(name).with_name(own) if own != Path(name).name else 'v2_mscoco_val2014_annotations.json'}"
        )
    folder = given.images or Path(name).parent
    return VQAFiles(name, given.annotations, images=folder, pictures=given.pictures)


def _answered(source: Any, name: str, wants: Wants, given: Options) -> Source:
    """The source; UserError where answers are wanted and a row has none."""
    if "question" in wants and given.answers_needed:
        lacking = [row.at for row in source.rows if "answers" not in row.targets]
        if lacking:
            raise UserError(
                f"{name}[{lacking[0]}]: no answers, and {len(lacking)} of {len(source)} questions have none; they are "
                "needed here"
            )
    return source


def read_lines_of(name: str, wants: Wants, given: Options) -> Source:
    """JSON lines with what is wanted, or by what the first of them holds."""
    own = {"root": given.images, "columns": given.columns}
    if "question" in wants:
        return VQALines(name, **own, answers_needed=given.answers_needed)  # type: ignore[arg-type]
    if wants:
        needs = tuple(sorted(wants if given.answers_needed else wants - {"label"}))
        return JsonLines(name, **own, needs=needs)  # type: ignore[arg-type]
    first = renamed(_first_row(name), given.columns or {})
    if "question" in first and "caption" not in first:
        return VQALines(name, **own, answers_needed=False)  # type: ignore[arg-type]
    needs = ("caption",) if "caption" in first or not first else ()
    return JsonLines(name, **own, needs=needs)  # type: ignore[arg-type]


def _first_row(name: str) -> Mapping[str, Any]:
    try:
        with Path(name).open("rb") as file:
            line = next((line for line in file if line.strip()), b"")
        row = parse_json(line.strip(), first=True)
    except (OSError, ValueError):
        return {}  # to be told by who opens it
    return row if isinstance(row, dict) else {}


def read_shards(name: str, wants: Wants, given: Options) -> Source:
    """Tar shards with what is wanted; where all problems are collected, captions are wanted if there are any."""
    if "question" in wants:
        return Asked(Shards(name, needs=("question",)), where=name, answers_needed=given.answers_needed)
    if not given.answers_needed:
        wants -= {"label"}
    if not wants and is_collecting():
        found = Shards(name, needs=())
        return Shards(name) if next(found.captions(), None) is not None else found
    return Shards(name, needs=sorted(wants))


def read_folder(name: str, wants: Wants, given: Options) -> Source:
    """Pictures in class folders, with captions beside them, with a file of metadata, or alone."""
    path = Path(name)
    own = metadata_in(path)
    if own is not None and not ("label" in wants and is_class_folder(path)):
        return _metadata(own, wants, given)
    below = sorted(p for p in path.iterdir() if p.is_dir() and p.name.casefold() in SPLITS and metadata_in(p))
    if below:
        raise UserError(
            f"{path}: its parts have a file of metadata each; give one of them: {', '.join(map(str, below))}"
        )
    may_be_classes = "label" in wants or "caption" not in wants
    if ("label" in wants and given.answers_needed) or (may_be_classes and is_class_folder(path)):
        return ClassFolder(path)
    needed = "caption" in wants or any(p.with_suffix(".txt").is_file() for p in walk(path).pictures)
    return Folder(path, captions_needed=needed)


def _metadata(file: Path, wants: Wants, given: Options) -> Source:
    """A folder by its file of metadata."""
    if file.suffix == ".parquet":
        return read_data_set(str(file), wants, replace(given, columns={"image": "file_name"}))
    if file.suffix == ".csv":
        return read_table(str(file), wants, given)
    keys = _first_row(str(file))
    fields = {field for field in NAMES if field in wants or not wants} - {"image"}
    columns = {field: next(own for own in NAMES[field] if own in keys) for field in fields if {*NAMES[field]} & {*keys}}
    columns["image"] = next((own for own in ("file_name", *NAMES["image"]) if own in keys), "image")
    return read_lines_of(str(file), wants, replace(given, columns=columns))
