"""Records written as mmkit's own form: JSON lines, with the pictures beside them or where they are.

What is written reads back as the same samples: captions, ids, questions, labels and all targets that JSON can say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmkit.data.clip import Clip, film_ending
from mmkit.data.images.formats import suffix_of
from mmkit.data.images.opening import BadImage, load_image
from mmkit.data.labels import own_names
from mmkit.data.problems import Problems
from mmkit.data.records import Record, Source
from mmkit.data.video.opening import open_clip, pictures_of
from mmkit.errors import UserError
from mmkit.files import write_text, writing

log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]


def write_records(
    source: Source, path: str | Path, *, limit: int | None = None, progress: Progress | None = None,
    copy_to: Path | None = None,
) -> int:  # fmt: skip
    """Write a new file of JSON lines, which appears when it is whole; the number of records.

    limit: only the first so many. progress: called with (done, total). copy_to: a folder for the pictures, all of them;
    None = those that are files stay where they are, and others are saved in ``STEM-images`` beside the file. Each
    picture is saved once; after an error none stays. UserError for a file that is there already or cannot be written,
    and for targets that JSON cannot say.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists already; name a new file, or remove it")
    n = len(source) if limit is None else min(limit, len(source))
    pictures = _Pictures(path, copy_to or path.with_name(f"{path.stem}-images"), copy=copy_to is not None)
    if pictures.folder.is_dir() and any(pictures.folder.iterdir()):
        raise UserError(
            f"{pictures.folder}: is where pictures would go, and is not empty; give {path.name} another name"
        )
    problems = Problems(path, unit="record")
    try:
        with pictures.kept(), writing(path) as file:
            for i in range(n):
                record = source[i]
                try:
                    file.write(json.dumps(_row(record, pictures, f"{i:06d}"), ensure_ascii=False) + "\n")
                except BadImage as error:
                    raise UserError(f"{record.key}: {error}") from error
                except (TypeError, ValueError) as error:
                    problems.add(record.key, "not JSON", f"its targets cannot be written ({error})")
                    problems.raise_if_any(n)
                if progress is not None:
                    progress(i + 1, n)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    if pictures.repeated:
        log.warning(
            "%s: %d records have an id of several pictures; there it is left out, and each picture is one of its own",
            path, pictures.repeated,
        )  # fmt: skip
    return n


def export_source(
    source: Source, folder: str | Path, name: str, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Write ``folder/NAME.jsonl`` with all its pictures in ``folder/images``, and ``NAME.classes.txt`` where the source
    names its classes. The counts, and the paths.
    """
    folder = Path(folder)
    out = folder / f"{name}.jsonl"
    n = write_records(source, out, limit=limit, progress=progress, copy_to=folder / "images" / name)
    names = own_names(source)
    if names:
        write_text(folder / f"{name}.classes.txt", "".join(f"{one}\n" for one in names))
    return {"records": n, "out": str(out)} | ({"classes": len(names)} if names else {})


class _Pictures:
    """Saves each picture once, and says by which path the file of records names it."""

    def __init__(self, path: Path, folder: Path, *, copy: bool) -> None:
        self.path, self.folder, self.copy = path, folder, copy
        self.saved: dict[str, str] = {}
        self.of_id: dict[str, str] = {}
        self.repeated = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is saved inside stays, and the folders made for it, only if nothing is raised."""
        new = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        try:
            yield
        except BaseException:
            with suppress(OSError):
                for file in self.folder.iterdir():
                    file.unlink()
                for place in new:
                    place.rmdir()
            raise

    def name(self, image: Image.Image | Path | bytes, stem: str, ending: str = "") -> str:
        """The path relative to the file of records; the picture is saved first where it must be.

        ending: of what is saved; "" = a picture's.
        """
        if isinstance(image, Path) and not self.copy:
            return Path(os.path.relpath(image, self.path.parent)).as_posix()
        kind = image if isinstance(image, Path | bytes) else image.tobytes() + repr((image.mode, image.size)).encode()
        key = str(kind) if isinstance(kind, Path) else hashlib.blake2b(kind, digest_size=16).hexdigest()
        if key not in self.saved:
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / f"{stem}{ending or _ending(image)}"
            _save(image, target)
            self.saved[key] = Path(os.path.relpath(target, self.path.parent)).as_posix()
        return self.saved[key]

    def image_id(self, record: Record, name: str) -> str | None:
        """The id to write; None where the name says it, or the id is of several pictures, which no file may say."""
        own = isinstance(record.image, Path) and record.image_id == os.path.abspath(record.image)
        same = self.of_id.setdefault(record.image_id, name) == name
        self.repeated += not same
        return record.image_id if same and not own else None


def _ending(image: Image.Image | Path | bytes) -> str:
    if isinstance(image, Path):
        return image.suffix
    if isinstance(image, Image.Image):
        return ".png"
    load_image(image)  # says what is wrong with it
    return suffix_of(image[:16]) or ".png"


def _save(image: Image.Image | Path | bytes, target: Path) -> None:
    if isinstance(image, Path):
        try:
            shutil.copyfile(image, target)
        except OSError as error:
            raise UserError(f"{image}: cannot be copied to {target} ({error.strerror or error})") from error
    elif isinstance(image, bytes):
        target.write_bytes(image)
    else:
        load_image(image).save(target)


def _row(record: Record, pictures: _Pictures, stem: str) -> Mapping[str, Any]:
    name: str | list[str]
    if isinstance(record.image, Clip):
        name = _clip(record.image, pictures, stem)
        named = {"video": name}
        image_id = pictures.image_id(record, name if isinstance(name, str) else "|".join(name))
    else:
        name = pictures.name(record.image, stem)
        named = {"image": name}
        image_id = pictures.image_id(record, name)
    row: dict[str, Any] = {**named} | ({} if image_id is None else {"image_id": image_id})
    if record.captions and "question" not in record.targets:
        row["caption"] = list(record.captions) if len(record.captions) > 1 else record.captions[0]
    for key, value in record.targets.items():
        # a target may be a picture too (the second one of a pair)
        is_picture = isinstance(value, Image.Image | Path | bytes)
        row[key] = pictures.name(value, f"{stem}-{key}") if is_picture else value
    return row


def _clip(clip: Clip, pictures: _Pictures, stem: str) -> str | list[str]:
    """The path of a clip's file, or those of its frames, each saved as a picture where it is none of a file."""
    frames: Any = clip.frames
    if isinstance(frames, Path):
        if pictures.copy and frames.is_dir():
            return [pictures.name(frame, f"{stem}-{i:03d}") for i, frame in enumerate(pictures_of(frames))]
        return pictures.name(frames, stem)
    if isinstance(frames, bytes):
        open_clip(clip, stem)  # says what is wrong with it
        return pictures.name(frames, stem, suffix_of(frames[:16]) or film_ending(frames[:16]))
    elif isinstance(frames, np.ndarray):
        frames = [Image.fromarray(frame) for frame in frames]
    return [pictures.name(frame, f"{stem}-{i:03d}") for i, frame in enumerate(frames)]
