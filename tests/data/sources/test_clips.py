"""Clips in Parquet, data sets and tables: as videos, as frames, by path; what is wrong with them is told at once."""

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.records import described
from mmkit.data.sources.open import open_records, open_source
from mmkit.data.sources.parquet import holds_pictures
from mmkit.data.video.opening import open_clip
from mmkit.errors import UserError


def png(grey):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


FRAMES = [png(0), png(60), png(120)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Frames 0 to 2 as pictures in ``frames``."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(FRAMES):
        (tmp_path / "frames" / f"{i}.png").write_bytes(frame)
    return tmp_path


def parquet(folder, cells, column="video", kind=None, **more):
    """A file of these cells, each with a caption."""
    captions = [f"caption {i}" for i in range(len(cells))]
    columns = {column: pa.array(cells, kind), "caption": pa.array(captions), **more}
    pq.write_table(pa.table(columns), folder / "test.parquet")
    return folder / "test.parquet"


def greys(clip):
    opened = open_clip(clip)
    return [frame.getpixel((0, 0))[0] for frame in opened.take(range(opened.count))]


PATHS = [f"frames/{i}.png" for i in range(3)]
CELLS = {
    "bytes": FRAMES, "paths": PATHS, "datasets": [{"bytes": frame, "path": None} for frame in FRAMES],
    "datasets by path": [{"bytes": None, "path": path} for path in PATHS],
}  # fmt: skip


@pytest.mark.parametrize("form", CELLS)
def test_frames_stand_in_a_list(folder, form):
    file = parquet(folder, [CELLS[form], CELLS[form][:1]])
    for source in (open_source(file, {"caption"}), open_records(file)):
        assert greys(source[0].image) == [0, 60, 120]
        assert greys(source[1].image) == [0]
        assert source[1].captions == ("caption 1",)
        assert [image_id for _, image_id, _ in described(source)] == [source[0].image_id, source[1].image_id]
        assert source[0].image_id != source[1].image_id
    assert holds_pictures(file) == (form in ("bytes", "datasets"))


@pytest.mark.parametrize("cell", [b"a video", {"bytes": b"a video", "path": None}])
def test_a_cell_is_a_video(folder, cell):
    (clip,) = (open_source(parquet(folder, [cell]), {"caption"})[0].image,)
    assert isinstance(clip, Clip)
    assert clip.frames == b"a video"


def test_a_path_is_that_of_a_clip_by_its_column_or_by_its_ending(folder):
    assert greys(open_source(parquet(folder, ["frames"]), {"caption"})[0].image) == [0, 60, 120]
    (folder / "a.mp4").write_bytes(b"")
    (clip,) = open_source(parquet(folder, ["a.mp4"], column="image"), {"caption"})
    assert clip.image.path == folder / "a.mp4"


def test_what_datasets_calls_a_video_is_a_clip(folder):
    features = datasets.Features({"film": datasets.Video(decode=False), "caption": datasets.Value("string")})
    rows = [{"film": {"bytes": b"a video", "path": None}, "caption": "one"}]
    made = datasets.Dataset.from_list(rows, features=features)
    made.to_parquet(str(folder / "test.parquet"))
    made.save_to_disk(str(folder / "saved"))
    for place in (folder / "test.parquet", folder / "saved"):
        for columns in ({"image": "film"}, {"video": "film"}):
            clip = open_source(place, {"caption"}, columns=columns)[0].image
            assert isinstance(clip, Clip)
            assert clip.frames == b"a video"


@pytest.mark.parametrize(
    ("cells", "column", "columns", "says"),
    [
        ([PATHS, []], "video", None, "1 x no picture"), ([PATHS, [PATHS[0], "no.png"]], "video", None, r"no\.png"),
        (["gone.mp4"], "video", None, r"gone\.mp4"), ([PATHS, ["frames/0.png", None]], "video", None, "1 x no picture"),
        ([PATHS], "image", None, "--columns video=image"),
        ([PATHS], "film", None, "Say which column is which with image= or video="),
        ([PATHS], "film", {"image": "film", "video": "film"}, "a picture or a clip; give one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_once(folder, cells, column, columns, says):
    with pytest.raises(UserError, match=says):
        open_source(parquet(folder, cells, column), {"caption"}, columns=columns)[0]


def test_one_id_is_of_one_clip(folder):
    with pytest.raises(UserError, match="one id for different pictures"):
        open_source(parquet(folder, [FRAMES, FRAMES[:1]], image_id=pa.array([1, 1])), {"caption"})
    assert len(open_source(parquet(folder, [FRAMES, FRAMES], image_id=pa.array([1, 1])), {"caption"})) == 2


def test_of_pictures_beside_clips_the_pictures_are_read_unless_the_clips_are_named(folder, caplog):
    file = parquet(folder, [FRAMES], image=pa.array([FRAMES[1]]))
    with caplog.at_level("INFO"):
        assert open_source(file, {"caption"})[0].image == FRAMES[1]
    assert "its clips: --columns video=video" in caplog.text
    assert greys(open_source(file, {"caption"}, columns={"video": "video"})[0].image) == [0, 60, 120]


def test_a_table_names_clips(folder):
    (folder / "a.mp4").write_bytes(b"")
    table = folder / "clips.csv"
    table.write_text("video,caption,label\nframes,one,3\na.mp4,two,4\n")
    for source in (open_source(table, {"caption"}), open_records(table)):
        assert greys(source[0].image) == [0, 60, 120]
        assert source[1].image.path == folder / "a.mp4"
        assert source[1].captions == ("two",)
    assert open_source(table, {"label"})[0].targets == {"label": "3"}
    assert open_source(table)[0].captions == ("one",)
    table.write_text("clip,title\nframes,one\n")
    assert greys(open_source(table, {"caption"}, columns={"video": "clip"})[0].image) == [0, 60, 120]
    with pytest.raises(UserError, match="a picture or a clip"):
        open_source(table, {"caption"}, columns={"video": "clip", "image": "clip"})
    table.write_text("video,caption\ngone,one\n")
    with pytest.raises(UserError, match=r"clips\.csv:2: no picture .*gone"):
        open_source(table, {"caption"})
    table.write_text("image,video,caption\nframes/1.png,frames,one\n")
    assert open_source(table, {"caption"})[0].image == folder / "frames" / "1.png"
