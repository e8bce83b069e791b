"""Crops made by PyTorch or by Pillow: the same but for rounding, and nothing of what lies beside them."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.images import planes
from mmkit.data.images.planes import from_planes, resized_crop, to_planes


@pytest.fixture
def image():
    """Waves, with some noise."""
    y, x = np.mgrid[0:90, 0:120]
    waves = np.stack([127 + 100 * np.sin(x / 9 + y / 30), 127 + 90 * np.cos(y / 7), x + y], -1)
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(params=[True, False], ids=["torch", "pillow"])
def by_torch(request, monkeypatch):
    monkeypatch.setattr(planes, "_by_torch", lambda: request.param)
    return request.param


def test_there_and_back(image):
    made = to_planes(image)
    assert made.shape == (3, 90, 120)
    assert made.dtype == torch.uint8
    assert made[:, 7, 100].tolist() == list(image.getpixel((100, 7)))
    assert from_planes(made).tobytes() == image.tobytes()


@pytest.mark.parametrize("box", [(0, 0, 120, 90), (13, 5, 101, 90), (30, 20, 50, 34), (0, 0, 32, 24), (7, 50, 39, 74)])
def test_a_crop_is_pillows_but_for_rounding(by_torch, image, box):
    found = resized_crop(image, box, 32, 24)
    assert found.shape == (3, 24, 32)
    assert found.is_contiguous()
    wanted = to_planes(image.crop(box).resize((32, 24), Image.Resampling.BICUBIC))
    difference = (found.int() - wanted.int()).abs()
    assert difference.max() <= (2 if by_torch else 0)  # one for each direction
    assert difference.float().mean() < 0.1
    if (box[2] - box[0], box[3] - box[1]) == (32, 24):
        assert torch.equal(found, to_planes(image.crop(box)))


def test_nothing_beside_the_box_is_seen(by_torch):
    image = Image.new("RGB", (60, 60), (255, 255, 255))
    image.paste((10, 20, 30), (11, 12, 41, 50))
    found = resized_crop(image, (11, 12, 41, 50), 16, 16)
    assert torch.equal(found, torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16))


def test_a_picture_in_several_parts_of_memory(monkeypatch):
    """Pillow keeps more than 16 MB so, and lends none of them."""
    monkeypatch.setattr(planes, "_by_torch", lambda: True)
    image = Image.linear_gradient("L").resize((2100, 2100)).convert("RGB")
    assert planes._memory(image).shape == (2100, 2100, 3)
    found = resized_crop(image, (0, 0, 2100, 2100), 16, 16)
    wanted = to_planes(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert (found.int() - wanted.int()).abs().max() <= 2


def test_memory_that_is_lent_is_kept(image):
    seen = planes._memory(image.copy())
    assert seen.shape == (90, 120, 4)
    others = [Image.new("RGB", image.size, (n, n, n)) for n in range(20)]
    assert torch.equal(seen[..., :3].permute(2, 0, 1), to_planes(image))
    assert len(others) == 20


@pytest.mark.parametrize(("capability", "fast"), [("AVX2", True), ("AVX512", True), ("DEFAULT", False), ("SVE", False)])
def test_pillow_where_there_are_no_wide_instructions(capability, fast, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert planes._by_torch.__wrapped__() is fast
