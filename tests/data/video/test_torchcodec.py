"""torchcodec as the reader of videos: the frames of PyAV, at the same times, or a reason.

It needs FFmpeg's shared libraries. Where there are none, ``test_with_the_libraries_of_pyav`` runs the others with those
that PyAV brings, by their plain names.
"""

import os
import re
import subprocess
import sys
from bisect import bisect_right
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.images.opening import BadImage
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.records import Record
from mmkit.data.video import by_torchcodec, opening
from mmkit.data.video.opening import open_clip, open_for
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTrain, ClipTransform
from mmkit.errors import Unreadable, UserError
from tests.data.video import test_opening
from tests.data.video.test_opening import film

WITHIN = 2
"""Of 255: FFmpeg's versions convert colours with other rounding."""


@pytest.fixture
def loaded():
    """Skips where torchcodec cannot be loaded."""
    try:
        by_torchcodec._decoder()
    except UserError as error:
        pytest.skip(str(error))


def both(clip, numbers=None):
    """The frames of both readers as arrays (n, height, width, 3)."""
    found = []
    for reader in ("pyav", "torchcodec"):
        opened = open_clip(clip, reader=reader)
        found.append(np.stack([np.asarray(f, int) for f in opened.take(numbers or list(range(opened.count)))]))
    return found


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(("name", "codec", "second", "times"), [
    ("a.mkv", "ffv1", 100, None), ("a.mp4", "mpeg4", 100, None), ("a.avi", "mpeg4", 10, None),
    ("b.mkv", "ffv1", 100, [0, 10, 20, 50, 60]),
])  # fmt: skip
def test_the_frames_are_those_of_pyav(tmp_path, name, codec, second, times):
    path = film(tmp_path / name, codec, times, second)
    for clip in (Clip(path), Clip(path.read_bytes())):
        for numbers in (None, [4, 0, 2, 2]):
            one, other = both(clip, numbers)
            assert one.shape == other.shape
            assert np.abs(one - other).max() <= WITHIN
    assert len(set(other[:, 0, 0, 0].tolist())) > 1  # these do differ


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_film_is_turned_as_pyav_turns_it(tmp_path, monkeypatch, turn):
    corner = Image.new("RGB", (16, 12))
    corner.paste("white", (0, 0, 8, 6))
    monkeypatch.setattr(test_opening, "frames", lambda: [corner] * 5)
    whole = bytearray(film(tmp_path / "a.mp4", "mpeg4").read_bytes())
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    less = (-(1 << 16)).to_bytes(4, "big", signed=True)
    first = {90: (none, one, less, none), 180: (less, none, none, less), 270: (none, less, one, none)}[turn]
    matrix = b"".join([first[0], first[1], none, first[2], first[3], none])
    at = whole.index(b"".join([one, none, none, none, one, none]), whole.index(b"tkhd"))
    whole[at : at + len(matrix)] = matrix
    one, other = both(Clip(bytes(whole)), [1, 3])
    assert one.shape == ((2, 12, 16, 3) if turn == 180 else (2, 16, 12, 3))
    corners = {"0 0": one[0, 0, 0, 0], "0 1": one[0, 0, -1, 0], "1 0": one[0, -1, 0, 0], "1 1": one[0, -1, -1, 0]}
    assert max(corners, key=corners.get) != "0 0"
    assert np.abs(one - other).max() <= WITHIN


class Stub:
    """What torchcodec's decoder does, by PyAV. late: seconds by which it gives later frames."""

    late = 0.0

    def __init__(self, source, *, stream_index, dimension_order):
        assert (stream_index, dimension_order) == (0, "NHWC")
        self.own = open_clip(Clip(source))

    def get_frames_played_at(self, seconds):
        times = [time / self.own.index.second for time in self.own.index.times]
        shown = [bisect_right(times, at + self.late) - 1 for at in seconds]
        pictures = self.own.pictures(sorted(set(shown)))
        frames = np.stack([np.asarray(pictures[i]) for i in shown])
        return SimpleNamespace(data=torch.from_numpy(frames), pts_seconds=torch.tensor([times[i] for i in shown]))


def test_frames_are_asked_for_by_their_times(tmp_path, monkeypatch):
    monkeypatch.setattr(by_torchcodec, "_decoder", lambda: Stub)
    for name, times in (("a.mkv", None), ("b.mkv", [0, 10, 20, 50, 60])):
        for numbers in (None, [4, 0, 2, 2]):
            one, other = both(Clip(film(tmp_path / name, "ffv1", times)), numbers)
            assert np.array_equal(one, other)
    monkeypatch.setattr(Stub, "late", 0.1)
    with pytest.raises(BadImage, match=r"gives the frame at 0\.200 s for frame 1, which is at 0\.100 s"):
        open_clip(Clip(tmp_path / "a.mkv"), reader="torchcodec").take([1])
    clip = open_clip(Clip(tmp_path / "a.mkv"), reader="torchcodec")
    clip.index = replace(clip.index, numbered=True)
    with pytest.raises(BadImage, match="tells no times of its frames"):
        clip.take([0])


@pytest.mark.usefixtures("loaded")
def test_a_frame_of_another_time_is_an_error(tmp_path, monkeypatch):
    clip = open_clip(Clip(film(tmp_path / "a.mp4", "mpeg4")), reader="torchcodec")
    decoder = by_torchcodec._decoder()

    class Late:
        def __init__(self, *given, **named):
            self.own = decoder(*given, **named)

        def get_frames_played_at(self, seconds):
            return self.own.get_frames_played_at([second + 0.1 for second in seconds])

    monkeypatch.setattr(by_torchcodec, "_decoder", lambda: Late)
    with pytest.raises(BadImage, match=r"gives the frame at 0\.100 s for frame 0, which is at 0\.000 s"):
        clip.take([0])


@pytest.mark.usefixtures("loaded")
def test_what_is_broken_is_told(tmp_path):
    whole = film(tmp_path / "a.mp4", "mpeg4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImage, match=r"cut\.mp4"):
        both(Clip(tmp_path / "cut.mp4"))


def test_it_is_chosen_by_name_and_kept_with_the_model(monkeypatch):
    train = ClipTrain(size=8, sampler=Sampler(frames=2), reader="torchcodec")
    assert train.for_eval().reader == "torchcodec"
    assert ClipTransform(frame=EvalTransform(size=8), sampler=Sampler(frames=2)).reader == "pyav"
    with pytest.raises(UserError, match="'pyav' or 'torchcodec'"):
        ClipTrain(size=8, sampler=Sampler(frames=2), reader="decord")
    told = Mock()
    monkeypatch.setitem(opening.READERS, "torchcodec", told)
    open_for(train.for_eval(), Record(image=Clip(b"a video"), captions=(), image_id="1", key="one"))
    assert told.call_args.args[0] == b"a video"


def test_where_it_is_not_installed_or_finds_no_libraries_the_way_out_is_told(tmp_path, monkeypatch):
    clip = Clip(film(tmp_path / "a.mp4", "mpeg4"))
    with monkeypatch.context() as patch:
        patch.setattr(by_torchcodec.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"mmkit\[torchcodec\].*reader=pyav"):
            open_clip(clip, reader="torchcodec")
    torchcodec = pytest.importorskip("torchcodec")
    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    with pytest.raises(UserError, match=r"^torchcodec cannot decode.*shared libraries of FFmpeg") as told:
        open_clip(clip, reader="torchcodec").take([0])
    assert not isinstance(told.value, Unreadable)  # no clip is damaged, so none is left out for it


@pytest.mark.long
def test_with_the_libraries_of_pyav(tmp_path):
    av = find_spec("av")
    folder = Path(av.origin).parent.parent / "av.libs"
    if find_spec("torchcodec") is None or not folder.is_dir():
        pytest.skip("needs torchcodec, and PyAV's wheel for Linux")
    for file in folder.iterdir():
        if found := re.fullmatch(r"(lib(?:av|sw)\w+)-[0-9a-f]{8}\.so\.(\d+)\..*", file.name):
            (tmp_path / f"{found[1]}.so.{found[2]}").symlink_to(file)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rs", __file__], capture_output=True, text=True, check=False,
        env={**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}:{folder}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
