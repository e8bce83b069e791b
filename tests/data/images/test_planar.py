"""Pictures made as planes: Pillow's own picture for who looks at it so, and planes without that way for training."""

import pickle
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmkit.data.images.opening import load_image
from mmkit.data.images.planar import Planar
from mmkit.data.images.planes import painter, to_planes
from mmkit.data.images.transforms import TrainTransform, to_pixels
from mmkit.data.images.variable_size import stack_pixels

PLANES = np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8)


def made(planes=PLANES):
    """A picture that is painted as these planes."""

    def paint(out, mirrored):
        out[:] = planes[:, :, ::-1] if mirrored else planes

    return Planar((7, 5), paint)


@pytest.fixture
def planar():
    return made()


def test_it_is_pillows_picture(planar):
    plain = Image.fromarray(np.ascontiguousarray(PLANES.transpose(1, 2, 0)))
    assert (planar.mode, planar.size) == ("RGB", (7, 5))
    assert planar.tobytes() == plain.tobytes()
    assert planar.paint is None  # one memory holds it
    assert made().resize((3, 3)).tobytes() == plain.resize((3, 3)).tobytes()
    assert made().copy() == plain
    assert plain == made() == made(PLANES.copy())
    assert made() != made(255 - PLANES)
    again = pickle.loads(pickle.dumps(made()))
    assert again.tobytes() == plain.tobytes()


def test_planes_are_read_without_pillows_memory(planar):
    assert load_image(planar) is planar
    planes = to_planes(planar)
    assert planar.paint is not None
    assert (planes.numpy() == PLANES).all()
    planes.zero_()
    assert (to_planes(planar).numpy() == PLANES).all()  # its own


def test_what_is_drawn_on_it_is_seen(planar):
    ImageDraw.Draw(planar).point((2, 1), (1, 2, 3))
    assert painter(planar) is None
    assert to_planes(load_image(planar))[:, 1, 2].tolist() == [1, 2, 3]


def test_mirrored_planes(planar):
    plain = Image.fromarray(np.ascontiguousarray(PLANES.transpose(1, 2, 0)))
    for image in (planar, plain):
        assert (to_planes(image, mirrored=True).numpy() == PLANES[:, :, ::-1]).all()
        assert (to_planes(image).numpy() == PLANES).all()
    assert painter(plain) is None


def test_a_batch_is_painted_where_it_lies():
    """Beside pictures of files too, and on a canvas, as if each had been painted for itself."""
    plain = Image.fromarray(np.ascontiguousarray(255 - PLANES.transpose(1, 2, 0)))
    drawn, file = (to_pixels(image, (0, 0, 0), (1, 1, 1)) for image in (made(), plain))
    wanted = torch.from_numpy(np.stack([PLANES, 255 - PLANES, PLANES]))
    together, mask = stack_pixels([drawn, file, drawn])
    assert mask is None
    assert torch.equal(together, wanted)
    larger, mask = stack_pixels([drawn, file, drawn], (6, 8))
    assert torch.equal(larger[:, :, :5, :7], wanted)
    assert mask[:, :5, :7].all()
    assert mask.sum() == 3 * 35
    assert torch.equal(stack_pixels([drawn, drawn])[0], wanted[::2])
    assert drawn.shape == file.shape == (3, 5, 7)
    assert torch.equal(pickle.loads(pickle.dumps(drawn)).bytes, wanted[0])
    changed = drawn._replace(bytes=255 - drawn.bytes)
    assert torch.equal(changed.bytes, wanted[1])
    assert torch.equal(stack_pixels([changed, changed])[0], wanted[1].expand(2, -1, -1, -1))
    assert drawn._replace(erased=(0, 0, 1, 1)).erased == (0, 0, 1, 1)


@pytest.mark.parametrize("randaugment", [None, (2, 7)])
def test_transforms_see_a_planar_picture_as_pillows(randaugment):
    """Unpainted on its way to the batch, but where augmentation has to look."""
    planes = np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8)
    plain = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))

    def paint(out, mirrored):
        out[:] = planes[:, :, ::-1] if mirrored else planes

    for size in (32, 20):
        transform = TrainTransform(size=size, scale=(1.0, 1.0), randaugment=randaugment, flip=0.5, erase=0.5)
        for seed in range(6):
            found, _ = transform.raw_pixels(Planar((32, 32), paint), "a dog", Random(seed))
            wanted, _ = transform.raw_pixels(plain, "a dog", Random(seed))
            assert (found.paint is not None) == (randaugment is None and size == 32)
            assert torch.equal(found.bytes, wanted.bytes)
            assert torch.equal(found.normalised(), wanted.normalised())
            assert found.shape == wanted.shape == (3, size, size)
        evaluated = transform.for_eval()
        assert torch.equal(evaluated(Planar((32, 32), paint)), evaluated(plain))
