"""Every form of a clip gives the same frames; what is broken is named, as broken pictures are."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mmkit.data.check import check_named
from mmkit.data.clip import Clip
from mmkit.data.images.opening import BadImage
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.loader import PairDataset
from mmkit.data.records import JsonLines, Record
from mmkit.data.video.opening import open_clip, open_for
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTrain, ClipTransform
from mmkit.errors import UserError

T = 5


def frames(n: int = T) -> list[Image.Image]:
    """Frame i is of the grey 40 i, which tells its number."""
    return [Image.new("RGB", (16, 12), (40 * i,) * 3) for i in range(n)]


def seen(clip, numbers=None) -> list[int]:
    """The numbers of the frames that a clip gives."""
    opened = open_clip(clip)
    return [round(np.asarray(frame).mean() / 40) for frame in opened.take(numbers or list(range(opened.count)))]


def save(path, made=None, durations=100):
    made = made or frames()
    more = {"lossless": True} if path.suffix == ".webp" else {}
    made[0].save(path, save_all=True, append_images=made[1:], duration=durations, **more)
    return path


def film(path, codec="ffv1", times=None, second=100):
    """A video by PyAV. times: of the frames in ticks of 1 / second; None = ten frames a second."""
    av = pytest.importorskip("av")
    from fractions import Fraction

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 12, "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, second)
        stream.codec_context.gop_size = 3
        for i, image in enumerate(frames()):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = (times or [second // 10 * k for k in range(T)])[i], Fraction(1, second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def forms(folder):
    """By name, the same clip in each form."""
    (folder / "frames").mkdir()
    for i, image in enumerate(frames()):
        image.save(folder / "frames" / f"f_{i + 8}.png")  # f_8, f_9, f_10: sorted as people count
    np.save(folder / "a.npy", np.stack([np.asarray(image) for image in frames()]))
    return {
        "folder": Clip(folder / "frames"), "list": Clip([folder / "frames" / f"f_{i + 8}.png" for i in range(T)]),
        "memory": Clip(frames()), "array": Clip(np.stack([np.asarray(image) for image in frames()])),
        "npy": Clip(folder / "a.npy"), "gif": Clip(save(folder / "a.gif")), "webp": Clip(save(folder / "a.webp")),
        "apng": Clip(save(folder / "b.png")), "bytes": Clip(save(folder / "c.gif").read_bytes()),
    }  # fmt: skip


def test_every_form_gives_the_same_frames(tmp_path):
    for name, clip in forms(tmp_path).items():
        assert seen(clip) == [0, 1, 2, 3, 4], name
        assert seen(clip, [3, 1, 1]) == [3, 1, 1], name
    assert open_clip(tmp_path / "a.gif").rate == 10.0
    assert open_clip(tmp_path / "frames").rate is None


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_a_video_gives_its_frames_in_any_order(tmp_path, name):
    codec, second = ("mpeg4", 10) if name == "a.avi" else ("ffv1", 100) if name == "a.mkv" else ("mpeg4", 100)
    clip = Clip(film(tmp_path / name, codec, second=second))
    assert seen(clip) == [0, 1, 2, 3, 4]
    assert seen(clip, [4, 0, 2]) == [4, 0, 2]
    assert open_clip(clip).rate == pytest.approx(10.0)
    assert seen(Clip((tmp_path / name).read_bytes())) == [0, 1, 2, 3, 4]


def test_frames_at_a_variable_rate_are_taken_by_time(tmp_path):
    # shown at 0, 10, 20, 50, 60: the third stays for three steps of 10
    assert seen(Clip(film(tmp_path / "a.mkv", times=[0, 10, 20, 50, 60]))) == [0, 1, 2, 2, 2, 3, 4]
    assert seen(Clip(save(tmp_path / "a.gif", durations=[100, 100, 300, 100, 100]))) == [0, 1, 2, 2, 2, 3, 4]


def test_a_film_is_turned_as_it_says():
    from mmkit.data.video.files import _picture

    class Frame:
        rotation = 90

        def to_image(self):
            image = Image.new("RGB", (3, 2))
            image.putpixel((2, 0), (255, 0, 0))
            return image

    turned = _picture(Frame())
    assert turned.size == (2, 3)
    assert turned.getpixel((0, 0)) == (255, 0, 0)  # counter-clockwise: the right upper corner came to the left


def broken(folder):
    """What is wrong, and words of the message."""
    whole = save(folder / "whole.gif").read_bytes()
    (folder / "cut.gif").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("no video at all")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "nothing").mkdir()
    np.save(folder / "flat.npy", np.zeros((4, 4), np.uint8))
    np.save(folder / "none.npy", np.zeros((0, 4, 4, 3), np.uint8))
    (folder / "bad.npy").write_bytes(b"\x93NUMPY")
    film(folder / "film.mkv")
    data = (folder / "film.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: int(len(data) * 0.8)])
    frames()[0].save(folder / "one.png")
    Image.new("RGB", (8, 8)).save(folder / "other.png")
    return {
        "cut.gif": "damaged|cut off", "text.mp4": "no video that can be read", "empty.mp4": "no video that can be read",
        "nothing": "0 frames", "flat.npy": "4 x 4 uint8; a clip is", "none.npy": "0 frames", "bad.npy": "damaged array",
        "cut.mkv": "its frames end at 0.30 s of 0.50 s", "gone.mp4": "no such clip",
    }  # fmt: skip


def test_what_is_broken_is_named(tmp_path):
    for name, says in broken(tmp_path).items():
        with pytest.raises(BadImage, match=says) as error:
            seen(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(BadImage, match="frame 1 has 8 x 8 pixels, frame 0 16 x 12"):
        open_clip(Clip([tmp_path / "one.png", tmp_path / "other.png"])).take([0, 1])
    assert seen(tmp_path / "one.png") == [0]  # a picture is a clip of one frame


def test_broken_clips_are_counted_by_check_and_replaced_in_training(tmp_path):
    names = broken(tmp_path)
    del names["gone.mp4"]
    rows = [{"video": "whole.gif", "caption": "whole"}, *({"video": name, "caption": name} for name in names)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = check_named(str(tmp_path / "data.jsonl"))
    assert found.problems == {"unreadable clip": len(names)}
    assert (found.clips, found.shortest_clip, found.longest_clip, found.largest) == (1, T, T, (16, 12))
    transform = ClipTrain(size=8, sampler=Sampler(how="linear", frames=3), randaugment=None)
    dataset = PairDataset(source=JsonLines(tmp_path / "data.jsonl"), transform=transform, tokenizer=None, max_tokens=0)
    sample = dataset[0, 1]
    assert sample.key.endswith("data.jsonl:1")
    assert len(sample.skipped) == len(names)
    assert tuple(sample.pixels.shape) == (3, 3, 8, 8)


def test_a_video_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "mmkit\[video\]" .decord is unmaintained'):
        open_clip(tmp_path / "a.mp4")


def test_a_model_of_pictures_refuses_clips_and_one_of_clips_takes_pictures():
    record = Record(image=Clip(frames()), captions=(), image_id="1", key="the record")
    with pytest.raises(UserError, match="the record: is a clip, and this model reads pictures"):
        open_for(EvalTransform(size=8), record)
    still = Record(image=frames()[2], captions=(), image_id="1", key="the record")
    transform = ClipTransform(frame=EvalTransform(size=8), sampler=Sampler(frames=3))
    assert transform(open_for(transform, still)).shape == (3, 3, 8, 8)


def test_an_animated_picture_is_a_clip_for_a_model_of_clips(tmp_path):
    transform = ClipTransform(frame=EvalTransform(size=8), sampler=Sampler(frames=5))
    record = Record(image=save(tmp_path / "a.gif"), captions=(), image_id="1", key="a")
    raw = transform.raw_pixels(open_for(transform, record))
    assert [round(float(raw.bytes[:, i].float().mean()) / 40) for i in range(5)] == [0, 1, 2, 3, 4]


def test_bytes_of_a_picture_in_memory_name_the_record():
    data = io.BytesIO()
    frames()[0].save(data, "PNG")
    with pytest.raises(BadImage, match=r"^row 7: .* damaged"):
        open_clip(data.getvalue()[:40], "row 7").take([0])
