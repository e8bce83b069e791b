"""Clips in files of records: what they name, what is wrong with it, and what is written of clips."""

import json

import numpy as np
import pytest
from PIL import Image

from mmkit.data.clip import Clip, film_ending
from mmkit.data.records import JsonLines, Record
from mmkit.data.sources.folder import Folder
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_source
from mmkit.data.sources.walk import walk
from mmkit.data.video.opening import open_clip
from mmkit.data.video.strip import FRAMES, shown
from mmkit.data.writing import write_records
from mmkit.errors import UserError
from mmkit.inference.embed_files import _mark


@pytest.fixture
def folder(tmp_path):
    """Frames 0 to 2 as pictures in ``frames``, and a picture ``one.png``."""
    (tmp_path / "frames").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 6), (60 * i,) * 3).save(tmp_path / "frames" / f"{i}.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "one.png")
    return tmp_path


def lines(folder, *rows, name="data.jsonl", **options):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonLines(folder / name, **options)


def greys(clip):
    opened = open_clip(clip)
    return [np.asarray(frame)[0, 0, 0].item() // 60 for frame in opened.take(range(opened.count))]


def test_a_line_names_a_folder_a_list_or_a_picture(folder):
    source = lines(
        folder, {"video": "frames", "caption": "one", "label": 3}, {"image": "one.png", "caption": "two"},
        {"video": ["./frames/2.png", "frames/0.png"], "caption": ["a", "b"]},
        {"video": "frames", "caption": "named", "image_id": "7"},
    )  # fmt: skip
    records = [source[i] for i in range(4)]
    assert [record.image_id for record in records] == ["frames", "one.png", "frames/2.png|frames/0.png", "7"]
    assert records[0].targets == {"label": 3}
    assert records[0].image.path == folder / "frames"
    assert greys(records[0].image) == [0, 1, 2]
    assert greys(records[2].image) == [2, 0]
    assert records[1].image == folder / "one.png"
    assert records[2].captions == ("a", "b")
    assert lines(folder, {"clip": "frames", "caption": "x"}, columns={"video": "clip"})[0].image.path.name == "frames"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"video": "gone.mp4"}, r"data.jsonl:1: no picture .*gone\.mp4"),
        ({"video": ["frames/0.png", "no.png"]}, r"no\.png"),
        ({"video": []}, "0 frames; a clip has at least one"), ({"video": 3}, "must be a path or a list of frames"),
        ({"video": "frames", "image": "one.png"}, "give one of them"),
        ({"video": ["frames/0.png", ""]}, "must be a path"),
        ({"video": "https://x.org/a.mp4"}, "must be downloaded first"), ({"video": None}, 'no key "image"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_told_at_once(folder, row, says):
    with pytest.raises(UserError, match=says):
        lines(folder, {**row, "caption": "x"})


def test_one_id_is_of_one_clip(folder):
    with pytest.raises(UserError, match="one id for different pictures"):
        lines(
            folder,
            {"video": "frames", "image_id": 1, "caption": "x"},
            {"image": "one.png", "image_id": 1, "caption": "x"},
        )


def test_clips_are_written_and_read_again(folder):
    array = np.stack([np.full((6, 8, 3), 60 * i, np.uint8) for i in range(3)])
    kinds = {
        "path": Clip(folder / "frames"), "memory": Clip([Image.fromarray(frame) for frame in array]),
        "array": Clip(array), "bytes": Clip((folder / "one.png").read_bytes()),
    }  # fmt: skip
    source = [Record(image=clip, captions=(name,), image_id=name, key=name) for name, clip in kinds.items()]
    write_records(source, folder / "out" / "new.jsonl")
    again = JsonLines(folder / "out" / "new.jsonl")
    assert [record.image_id for record in (again[i] for i in range(4))] == list(kinds)
    assert [greys(again[i].image) for i in range(4)] == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0]]
    assert json.loads((folder / "out" / "new.jsonl").read_text().splitlines()[0])["video"] == "../frames"
    write_records(source[:1], folder / "copy.jsonl", copy_to=folder / "copied")
    assert greys(JsonLines(folder / "copy.jsonl")[0].image) == [0, 1, 2]
    assert len(list((folder / "copied").iterdir())) == 3


def test_the_bytes_of_a_clip_are_written_as_they_are(folder):
    film, grid = folder / "film.gif", [Image.new("RGB", (8, 6), (60 * i,) * 3) for i in range(3)]
    grid[0].save(film, save_all=True, append_images=grid[1:], duration=100)
    frames = [(folder / "frames" / f"{i}.png").read_bytes() for i in range(3)]
    clips = [Clip(film.read_bytes()), Clip(frames)]
    source = [Record(image=clip, captions=("x",), image_id=str(i), key=str(i)) for i, clip in enumerate(clips)]
    write_records(source, folder / "out" / "new.jsonl")
    rows = [json.loads(line)["video"] for line in (folder / "out" / "new.jsonl").read_text().splitlines()]
    assert rows[0] == "new-images/000000.gif"
    assert (folder / "out" / rows[0]).read_bytes() == film.read_bytes()
    assert [(folder / "out" / name).read_bytes() for name in rows[1]] == frames


@pytest.mark.parametrize(("start", "ending"), [
    (b"RIFF\0\0\0\0AVI LIST", ".avi"), (b"\x1aE\xdf\xa3", ".mkv"), (b"\0\0\0 ftypisom", ".mp4"), (b"FLV\1", ".flv"),
])  # fmt: skip
def test_a_video_is_named_by_how_it_begins(start, ending):
    assert film_ending(start) == ending


def test_the_same_names_in_two_files_are_two_clips(folder):
    other = folder / "other"
    (other / "frames").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(other / "frames" / "0.png")
    row = {"video": "frames", "caption": "x"}
    joined = Joined([lines(folder, row), lines(other, row)])
    assert joined[0].image_id == str(folder / "frames") != joined[1].image_id


def test_an_embedding_is_made_anew_where_a_frame_was_mended(folder):
    record = lines(folder, {"video": "frames", "caption": "x"})[0]
    before = _mark(record)
    Image.new("RGB", (9, 9)).save(folder / "frames" / "1.png")
    assert _mark(record) != before


def test_people_see_frames_side_by_side(folder):
    record = lines(folder, {"video": "frames", "caption": "x"})[0]
    strip = np.asarray(shown(record))
    assert strip.shape == (6, 3 * 8 + 2 * 2, 3)
    assert [strip[0, x, 0] for x in (0, 10, 20)] == [0, 60, 120]
    long = Record(image=Clip(np.zeros((9, 6, 8, 3), np.uint8)), captions=(), image_id="1", key="1")
    assert shown(long).width == FRAMES * 8 + (FRAMES - 1) * 2


def test_a_folder_of_videos_alone_is_one_of_clips(folder, caplog):
    for name in ("left/1.mp4", "left/2.avi", "right/3.MOV"):
        (folder / "classes" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "classes" / name).write_bytes(b"")
    source = open_source(folder / "classes", {"label"})
    assert [(source[i].image.path.name, source[i].targets["label"]) for i in range(3)] == [
        ("1.mp4", 0), ("2.avi", 0), ("3.MOV", 1),
    ]  # fmt: skip
    assert walk(folder / "classes").told() == ""
    (folder / "classes" / "left" / "1.txt").write_text("a dog")
    assert isinstance(Folder(folder / "classes", captions_needed=False)[0].image, Clip)
    Image.new("RGB", (4, 4)).save(folder / "classes" / "left" / "a.png")  # beside pictures they are left out, as before
    assert [path.name for path in walk(folder / "classes").pictures] == ["a.png"]
    assert walk(folder / "classes").told() == "1 x .avi, 1 x .mov, 1 x .mp4, 1 x .txt"
