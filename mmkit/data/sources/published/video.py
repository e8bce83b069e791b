"""The published files of video-text retrieval: MSR-VTT, MSVD, DiDeMo, as records of clips with all their sentences.

A clip is found by its id among the files of a folder, whatever their ending, or as a folder of frames. Left out:
downloading, and the proposals in time of DiDeMo, which retrieval does not use.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmkit.data.clip import Clip
from mmkit.data.picture_files import missing
from mmkit.data.problems import Problems
from mmkit.data.records import ByNumber, Record
from mmkit.data.text_files import read_json
from mmkit.errors import UserError

VIDEO_FORMS = ("msrvtt_1ka", "msrvtt_full", "msvd", "didemo")


class Clips(ByNumber):
    """Clips with their sentences. told: (place in the file, id of the clip, sentences). folder: of the clips."""

    def __init__(self, path: Path, folder: Path, told: Sequence[tuple[Any, str, Sequence[str]]]) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give that of the clips: --images FOLDER")
        if not told:
            raise UserError(f"{path}: names no clip of this split")
        files = {file.stem if file.is_file() else file.name: file for file in sorted(folder.iterdir())}
        problems, rows = Problems(path, unit="row"), []
        for at, clip, sentences in told:
            if clip not in files:
                problems.add(at, missing(clip, folder / clip)[0], f"no clip {clip}.* in {folder}")
            elif not all(isinstance(text, str) and text.strip() for text in sentences) or not sentences:
                problems.add(at, "bad caption", f"clip {clip}: a sentence is empty")
            else:
                rows.append((f"{path}[{at}]", clip, files[clip], tuple(" ".join(text.split()) for text in sentences)))
        problems.rows = len(told)
        problems.raise_if_any()
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def _at(self, index: int) -> Record:
        key, clip, file, sentences = self.rows[index]
        return Record(image=Clip(file), captions=sentences, image_id=clip, key=key)

    def captions(self) -> Iterator[str]:
        """Every sentence."""
        for _, _, _, sentences in self.rows:
            yield from sentences


def read_video(form: str, path: str, folder: str | Path | None, split: str | None, ids: str | Path | None) -> Clips:
    """A file of one of ``VIDEO_FORMS``. folder: of the clips, None = beside it; ids: of MSVD, a list of a split.

    UserError, with file and row, for what the file should hold and does not, and for clips that are not there.
    """
    file, clips = Path(path), Path(path).parent if folder is None else Path(folder)
    if form != "msvd" and ids is not None:
        raise UserError("--annotations: of MSVD alone, its list of a split (test_list.txt)")
    if form == "msrvtt_1ka":
        return Clips(file, clips, _pairs(file))
    if form == "msrvtt_full":
        return Clips(file, clips, _msrvtt(file, split or "test"))
    if form == "msvd":
        return Clips(file, clips, _msvd(file, ids))
    return Clips(file, clips, _didemo(file))


def _pairs(path: Path) -> list[tuple[Any, str, list[str]]]:
    """The CSV of JSFusion's 1,000 pairs: key, vid_key, video_id, sentence."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not rows or not {"video_id", "sentence"} <= rows[0].keys():
        raise UserError(f"{path}: expected a CSV with the columns key, vid_key, video_id, sentence")
    return [(line, str(row["video_id"]), [row["sentence"] or ""]) for line, row in enumerate(rows, start=2)]


def _msrvtt(path: Path, split: str) -> list[tuple[Any, str, list[str]]]:
    """MSR-VTT's JSON: {videos: [{video_id, split}], sentences: [{video_id, caption}]}."""
    data = read_json(path, "MSR-VTT's videos and sentences")
    if not isinstance(data, Mapping) or not all(isinstance(data.get(key), list) for key in ("videos", "sentences")):
        raise UserError(f'{path}: expected an object with the lists "videos" and "sentences"')
    wanted = {"val": "validate", "validation": "validate"}.get(split, split)
    splits = {str(video.get("split")) for video in data["videos"]}
    if wanted not in splits:
        raise UserError(f"{path}: --split {split}: there are {', '.join(sorted(splits))}")
    told: dict[str, list[str]] = {str(v["video_id"]): [] for v in data["videos"] if v.get("split") == wanted}
    for sentence in data["sentences"]:
        if (clip := str(sentence.get("video_id"))) in told:
            told[clip].append(sentence.get("caption", ""))
    return [(clip, clip, texts) for clip, texts in told.items()]


def _msvd(path: Path, ids: str | Path | None) -> list[tuple[Any, str, list[str]]]:
    """raw-captions.pkl, {clip: sentences, each a text or its words}; and the list of a split, an id a line."""
    if ids is None:
        raise UserError(f"{path}: MSVD's sentences of all splits; give the list of one: --annotations test_list.txt")
    try:
        with path.open("rb") as file:
            data = _Plain(file).load()
        wanted = [line.strip() for line in Path(ids).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, IndexError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected {{clip: sentences}}, not {type(data).__name__}")
    if unknown := [clip for clip in wanted if clip not in data]:
        raise UserError(f"{ids}: {unknown[0]} has no sentences in {path}")
    texts = {clip: [s if isinstance(s, str) else " ".join(map(str, s)) for s in data[clip]] for clip in wanted}
    return [(clip, clip, sentences) for clip, sentences in texts.items()]


class _Plain(pickle.Unpickler):
    """Reads dictionaries, lists and texts, and nothing that could run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """A pickle that names code is refused."""
        raise pickle.UnpicklingError(f"it names {module}.{name}; only dictionaries, lists and texts are read")


def _didemo(path: Path) -> list[tuple[Any, str, list[str]]]:
    """A list of {video, description, times}: the sentences of a clip in order are its one paragraph."""
    data = read_json(path, "DiDeMo's sentences")
    if not isinstance(data, list) or not all(
        isinstance(row, Mapping) and isinstance(row.get("video"), str) and isinstance(row.get("description"), str)
        for row in data
    ):
        raise UserError(f'{path}: expected a list of {{"video": ..., "description": ...}}')
    told: dict[str, list[str]] = {}
    for row in data:
        told.setdefault(Path(row["video"]).stem, []).append(row["description"].strip())
    return [(clip, clip, [" ".join(texts)]) for clip, texts in told.items()]
