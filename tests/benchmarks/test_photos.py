"""The benchmark of photographs: ways take turns over all pictures, and the old way is what it says."""

import io
import json
import sys
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import photos
from mmkit.data.images.transforms import CLIP_MEAN, CLIP_STD, crop_box


@pytest.fixture
def folder(tmp_path):
    for n in range(3):
        (tmp_path / str(n)).mkdir()
        Image.radial_gradient("L").convert("RGB").resize((60 + n, 40)).save(tmp_path / str(n) / f"{n}.JPG", "JPEG")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_ways_take_turns_over_the_photographs(folder, monkeypatch):
    files = photos.photographs(folder, 99, None)
    assert len(files) == 3
    assert len(photos.photographs(folder, 2, None)) == 2
    monkeypatch.setattr(photos, "TURN", 2)
    seen = []
    ways = {name: (lambda file, rng, name=name: seen.append((name, files.index(file), rng.random()))) for name in "ab"}
    seconds = photos.timed(ways, files, rounds=2)
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}
    assert [(name, file) for name, file, _ in seen] == [
        (name, file) for turn in ((1, 2), (0, 1), (2, 0), (1, 2)) for name in "ab" for file in turn
    ]
    assert [r for name, _, r in seen if name == "a"] == [r for name, _, r in seen if name == "b"]  # the same crops


def test_photographs_are_enlarged(folder):
    sizes = [Image.open(io.BytesIO(file)).size for file in photos.photographs(folder, 99, 120)]
    assert sizes == [(120, 80), (120, 79), (120, 77)]


def test_the_old_way_is_a_crop_by_pillow(folder):
    file = photos.photographs(folder, 1, None)[0]
    rng = Random(3)
    image = Image.open(io.BytesIO(file))
    image = image.resize((16, 16), Image.Resampling.BICUBIC, box=crop_box(60, 40, (0.2, 1.0), (3 / 4, 4 / 3), rng))
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    wanted = (plain - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    flipped = wanted.flip(2) if rng.random() < 0.5 else wanted
    torch.testing.assert_close(photos.ways(16)["mmkit 0.1.0"](file, Random(3)), flipped)


def test_the_command_says_every_way_and_writes_json(folder, capsys, monkeypatch):
    monkeypatch.setattr(photos, "TURN", 3)
    out = folder / "out.json"
    monkeypatch.setattr(sys, "argv", ["photos", str(folder), "--size", "16", "--rounds", "1", "--json", str(out)])
    before = torch.get_num_threads()
    try:
        photos.main()
    finally:
        torch.set_num_threads(before)
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    assert found["about"]["photographs"] == 3
    assert set(found["samples_per_second"]) == set(photos.ways(16))
    assert all(f"{name} " in said for name in found["samples_per_second"])
    assert set(found["ratios"]) == set(photos.BESIDE)
    with pytest.raises(SystemExit, match=r"no \.jpg in it"):
        photos.photographs(out.parent / "notes", 9, None)
