"""From what a command line or a config names to a source: one way in, for every command.

Each reader says what it fits and what its records hold; the first that fits reads. What does not fit is an error that
lists what does. Left out: archives that are no folder of tar shards, which are named, with how to unpack them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

from mmkit.data.records import JsonLines, Source
from mmkit.data.remote import is_url
from mmkit.data.sources import readers
from mmkit.data.sources.boxes.annotated import is_coco_folder
from mmkit.data.sources.boxes.flickr import is_flickr
from mmkit.data.sources.boxes.odvg import is_odvg
from mmkit.data.sources.boxes.voc import is_voc
from mmkit.data.sources.boxes.yolo import is_yolo
from mmkit.data.sources.built_in import BOXED, BUILT_IN, built_in, is_built_in, is_openmoji, scenes_of
from mmkit.data.sources.delimited import TABLES
from mmkit.data.sources.index import ENDING
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.published.json_form import form_of
from mmkit.data.sources.readers import EVERYTHING, Options, Wants
from mmkit.data.sources.shards import is_shards
from mmkit.data.sources.table import Table
from mmkit.data.sources.walk import TARS, unpack_by
from mmkit.errors import UserError

Want = Literal["caption", "label", "question", "boxes"]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of data. form: for messages; gives: what its records may hold; takes: the ``Options`` it reads."""

    form: str
    gives: Wants
    fits: Callable[[str], bool]
    read: Callable[[str, Wants, Options], Source]
    takes: tuple[str, ...] = ()


def open_source(
    spec: str | Path, wants: Collection[Want] = (), *, columns: Mapping[str, str] | None = None,
    split: str | None = None, images: str | Path | None = None, annotations: str | Path | None = None,
    pictures: str | None = None, answers_needed: bool = True, outlines: bool = False,
) -> Source:  # fmt: skip
    """The source that a path or a name stands for.

    Args:
        spec: a file, a folder, ``hf:NAME``, or a built-in name.
        wants: what each record must hold; nothing = pictures, and whatever there is beside.
        columns: {field: column or key} of tables, JSON lines and data sets.
        split: of a data set (default test), or of Karpathy's file.
        images: the folder of the pictures that a file names (default: that of the file).
        annotations: the answers to VQA's questions.
        pictures: how the pictures of VQA's questions are called, such as ``{image_id}.jpg``.
        outlines: of COCO's files, JSON lines: boxes keep their ``segmentation``, for ``Objects(masks=True)``.
        answers_needed: False = questions may have no answers, as those of a test split, and pictures no labels.

    Raises:
        UserError: nothing of this name, data that do not hold what is wanted, or options that mean nothing for them.
    """
    name, wanted = str(spec), frozenset(wants)
    given = Options(
        columns=columns, split=split, images=images, annotations=annotations, pictures=pictures,
        answers_needed=answers_needed, outlines=outlines,
    )  # fmt: skip
    for reader in READERS:
        if reader.fits(name):
            if not wanted <= reader.gives:
                what = ", ".join(sorted(wanted - reader.gives))
                raise UserError(f"{name}: {reader.form}, which holds no {what}; give {forms(wanted)}")
            given.refuse(name, but=reader.takes)
            return reader.read(name, wanted, given)
    path = Path(name)
    if path.suffix.lower() in TARS and path.exists():
        folder = path.with_suffix("")
        tool = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz"}.get(path.suffix.lower())
        if tool is not None and folder.suffix.lower() != ".tar":
            raise UserError(f"{name}: is compressed; unpack it, and give {folder}: {tool} -k {name}")
        shards = f"; or, if it is a shard, give its folder: {path.parent}" if path.suffix.lower() == ENDING else ""
        raise UserError(
            f"{name}: an archive; unpack it into a folder of pictures with captions beside them: mkdir {folder} && "
            f"{unpack_by(name, folder)}{shards}"
        )
    raise UserError(f"{name}: no such file or folder; give {forms(wanted)}")


def open_records(
    path: str | Path | Mapping[str, float], *, needs: Sequence[str] = ("caption",), root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:  # fmt: skip
    """Records for a config: JSON lines, a table (CSV, TSV), a Parquet or Arrow file or folder, a folder of pictures.

    path: or several with their weights, {"train.jsonl": 3, "laion": 1}; see ``Joined``.
    needs: what each record must have besides its picture. root: where relative pictures are; default that of the file.
    columns: {field: column}, where the file calls them otherwise.
    """
    if isinstance(path, Mapping):
        parts = [partial(open_records, path=name, needs=needs, root=root, columns=columns) for name in path]
        return Joined(parts, weights=list(path.values()))
    name = str(path)
    if readers.is_data_set(name):
        if root is not None:
            raise UserError(f"{name}: root has no meaning for it; its paths begin at the file")
        return readers.read_data_set(name, frozenset(needs), Options(columns=columns, split="train"), in_order=False)
    if Path(name).suffix.lower() in TABLES:
        return Table(name, columns=columns, images=root, needs=needs)
    if (Path(name).is_dir() or is_url(name)) and root is None and columns is None:
        return open_source(name, needs)  # type: ignore[arg-type]
    return JsonLines(name, root=root, needs=needs, columns=columns)


def open_all_questions(
    data: Sequence[str], *, annotations: Sequence[str] = (), images: Sequence[str | Path] = ()
) -> Source:
    """Several, one after the other. annotations: one for each file of VQA's questions, in order; the others have none.

    images: none, one for all, or one for each of ``data``.
    """
    whose = [name for name in data if form_of(name) == "vqa"]
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
        open_source(name, {"question"}, annotations=next(given, None) if name in whose else None, images=folder)
        for name, folder in zip(data, folders, strict=True)
    ])  # fmt: skip


def forms(wants: Collection[str]) -> str:
    """The kinds of data that may hold this, for a message."""
    found = [reader.form for reader in READERS if frozenset(wants) <= reader.gives]
    return ", ".join(found[:-1]) + (f", or {found[-1]}" if len(found) > 1 else "".join(found))


def _is_file(*suffixes: str) -> Callable[[str], bool]:
    return lambda name: Path(name).suffix.lower() in suffixes and not Path(name).is_dir()


def _is_published(name: str) -> bool:
    return _is_file(".json")(name) and form_of(name) != "lines"


def _is_lines(name: str) -> bool:
    return Path(name).is_file() and Path(name).suffix.lower() not in TARS


READERS = (
    Reader(
        form="openmoji[:LANGUAGE]", gives=frozenset({"caption", "label", "boxes"}), fits=is_openmoji,
        read=lambda name, wants, given: scenes_of(name, wants),
    ),
    Reader(
        form=f"{' or '.join(BOXED)}, also with :SPLIT", gives=frozenset({"caption", "boxes"}),
        fits=lambda name: is_built_in(name) and name.partition(":")[0] in BOXED,
        read=lambda name, wants, given: cast(Source, built_in(name)),
    ),
    Reader(
        form=f"one of {', '.join(BUILT_IN)}, each also with :SPLIT", gives=frozenset({"caption", "question"}),
        fits=is_built_in, read=lambda name, wants, given: cast(Source, built_in(name)),
    ),
    Reader(
        form="hf:NAME of a data set, or a folder or file of Parquet or Arrow", gives=EVERYTHING,
        fits=readers.is_data_set, read=readers.read_data_set, takes=("columns", "split"),
    ),
    Reader(
        form="a table with a header (CSV, TSV)", gives=EVERYTHING, fits=_is_file(*TABLES), read=readers.read_table,
        takes=("columns", "images"),
    ),
    Reader(
        form="lines of ODVG (filename with detection or grounding)", gives=frozenset({"caption", "boxes"}),
        fits=is_odvg, read=readers.read_odvg, takes=("images",),
    ),
    Reader(
        form="a published list (.json) of COCO's, LVIS's, Karpathy's, ALBEF's, VQA's, GQA's or Visual Genome's",
        gives=frozenset({"caption", "question", "boxes"}), fits=_is_published, read=readers.read_published,
        takes=("split", "images", "annotations", "pictures", "outlines"),
    ),
    Reader(
        form="YOLO's YAML, or its folder", gives=frozenset({"boxes"}), fits=is_yolo, read=readers.read_yolo,
        takes=("split",),
    ),
    Reader(
        form="a folder of Flickr30k Entities (Sentences, Annotations)", gives=frozenset({"caption", "boxes"}),
        fits=is_flickr, read=readers.read_flickr, takes=("split", "images"),
    ),
    Reader(
        form="a folder with COCO's annotations", gives=frozenset({"boxes"}), fits=is_coco_folder,
        read=readers.read_coco, takes=("split", "images", "outlines"),
    ),
    Reader(
        form="a folder of VOC's XML", gives=frozenset({"boxes"}), fits=is_voc, read=readers.read_voc, takes=("split",),
    ),
    Reader(
        form="RefCOCO's refs(unc).p, refs(google).p or refs(umd).p", gives=frozenset({"caption", "boxes"}),
        fits=readers.is_refs, read=readers.read_refs, takes=("split", "images", "annotations"),
    ),
    Reader(
        form="a folder of tar shards with their index, or its address (s3://...)", gives=EVERYTHING, fits=is_shards,
        read=readers.read_shards,
    ),
    Reader(
        form="a folder of pictures, in a folder for each class, or with captions beside them",
        gives=frozenset({"caption", "label"}), fits=lambda name: Path(name).is_dir(), read=readers.read_folder,
    ),
    Reader(
        form="JSON lines with image and what is wanted beside", gives=EVERYTHING, fits=_is_lines,
        read=readers.read_lines_of, takes=("columns", "images", "outlines"),
    ),
)  # fmt: skip
"""In the order in which they are asked whether they fit."""
