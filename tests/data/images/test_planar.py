"""Pictures made as planes: Pillow's own picture for who looks at it so, and planes without that way for training."""

import pickle

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmkit.data.images.opening import load_image
from mmkit.data.images.planar import Planar
from mmkit.data.images.planes import to_planes

PLANES = np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8)


@pytest.fixture
def planar():
    return Planar(PLANES.copy())


def test_it_is_pillows_picture(planar):
    plain = Image.fromarray(np.ascontiguousarray(PLANES.transpose(1, 2, 0)))
    assert (planar.mode, planar.size) == ("RGB", (7, 5))
    assert planar.tobytes() == plain.tobytes()
    assert planar.planes is None  # one memory holds it
    assert Planar(PLANES).resize((3, 3)).tobytes() == plain.resize((3, 3)).tobytes()
    assert Planar(PLANES).copy() == plain
    assert plain == Planar(PLANES) == Planar(PLANES.copy())
    assert Planar(PLANES) != Planar(255 - PLANES)
    again = pickle.loads(pickle.dumps(Planar(PLANES)))
    assert again.tobytes() == plain.tobytes()


def test_planes_are_read_without_pillows_memory(planar):
    assert load_image(planar) is planar
    planes = to_planes(planar)
    assert planar.planes is not None
    assert (planes.numpy() == PLANES).all()
    planes.zero_()
    assert (to_planes(planar).numpy() == PLANES).all()  # a copy


def test_what_is_drawn_on_it_is_seen(planar):
    ImageDraw.Draw(planar).point((2, 1), (1, 2, 3))
    assert to_planes(load_image(planar))[:, 1, 2].tolist() == [1, 2, 3]


def test_mirrored_planes(planar):
    plain = Image.fromarray(np.ascontiguousarray(PLANES.transpose(1, 2, 0)))
    for image in (planar, plain):
        assert (to_planes(image, mirrored=True).numpy() == PLANES[:, :, ::-1]).all()
        assert (to_planes(image).numpy() == PLANES).all()
