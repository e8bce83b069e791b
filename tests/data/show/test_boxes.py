"""Boxes over pictures: where the view has them, with their names, whatever the form of the data."""

import numpy as np
import pytest
from PIL import Image

from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset
from mmkit.data.objects import Objects
from mmkit.data.order import order_of
from mmkit.data.records import Record
from mmkit.data.show.batch import batch_of, grid, sample_batch
from mmkit.data.show.boxes import COLOURS, Framed, Named, framed, frames_of
from mmkit.data.show.tasks import has_task
from mmkit.data.targets import Given

WHOLE = TrainTransform(size=50, scale=(1, 1), flip=0, randaugment=None)


class Pictures:
    """Two pictures of 100 x 50; the second has no box."""

    def __init__(self, boxes, captions=()):
        self.boxes, self.captions = [boxes, []], captions

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return Record(
            image=Image.new("RGB", (100, 50), "white"), captions=self.captions, image_id=str(i), key=f"row {i}",
            targets={"boxes": self.boxes[i]},
        )  # fmt: skip


def at(picture, x, y):
    return picture.getpixel((x, y))


def test_frames_lie_on_the_edge_inside_of_the_box():
    made = framed(Image.new("RGB", (60, 40), "white"), [Framed((10, 20, 50, 38), "", 1)], times=1)
    assert at(made, 10, 20) == at(made, 49, 37) == COLOURS[1]
    assert at(made, 9, 20) == at(made, 50, 37) == at(made, 30, 30) == (255, 255, 255)
    twice = framed(Image.new("RGB", (120, 80), "white"), [Framed((10, 20, 50, 38), "", 9)], times=2)
    assert at(twice, 20, 40) == at(twice, 99, 75) == COLOURS[9 % len(COLOURS)]
    crowd = framed(Image.new("RGB", (60, 40), "white"), [Framed((10, 20, 50, 38), "", 1, crowd=True)])
    assert at(crowd, 13, 30) == COLOURS[1]
    said = framed(Image.new("RGB", (60, 40), "white"), [Framed((10, 20, 50, 38), "dog", 1)])
    assert (np.asarray(said)[:20] != 255).any()


@pytest.mark.parametrize(
    "boxes",
    [
        [{"name": "dog", "box": [20, 10, 60, 40]}, {"label": "cat", "box": [0, 0, 10, 10], "crowd": True}],
        [[20, 10, 60, 40], [0, 0, 10, 10]],
    ],
)
def test_a_batch_has_the_names_of_its_boxes(boxes):
    source = Pictures(boxes)
    data = PairDataset(source=source, transform=WHOLE, tokenizer=None, max_tokens=0, targets=Named(Given(), ()))
    batch = batch_of(data, 2, order_of(source, seed=0))
    row = batch.keys.index("row 0")
    found = frames_of(batch.targets, row)
    plain = not isinstance(boxes[0], dict)
    assert [one.said for one in found] == (["", ""] if plain else ["dog", "cat"])
    assert [list(one.box) for one in found] == [[10, 10, 30, 40], [0, 0, 5, 10]]
    assert [one.crowd for one in found] == [False, not plain]
    assert frames_of(batch.targets, 1 - row) == []
    picture = grid(batch, None, columns=1, mean=WHOLE.mean, std=WHOLE.std)
    left, top = 14, 14 + row * (200 + 6 + 14)  # enlarged four times
    assert at(picture, left + 4 * 30 - 1, top + 4 * 25) == COLOURS[found[0].colour]
    assert at(picture, left + 4 * 30 + 1, top + 4 * 25) == (255, 255, 255)


def test_names_are_those_of_a_mirrored_picture():
    source = Pictures([{"name": "the dog left of the cat", "box": [0, 0, 20, 50]}])
    mirror = TrainTransform(size=50, scale=(1, 1), flip=1.0, randaugment=None)

    def seen(source):
        data = PairDataset(source=source, transform=mirror, tokenizer=None, max_tokens=0, targets=Named(Given(), ()))
        return data[0, 0].targets

    found = seen(source)
    assert (found["names"], found["boxes"].tolist()) == (["the dog right of the cat"], [[40, 0, 50, 50]])
    source.boxes[0][0]["name"] = "the man who left"  # cannot be mirrored, and so is not
    assert (seen(source)["names"], seen(source)["boxes"].tolist()) == (["the man who left"], [[0, 0, 10, 50]])


def test_numbers_are_called_by_the_classes_of_a_config():
    source = Pictures([{"name": "cat", "box": [0, 0, 10, 50]}])
    data = PairDataset(
        source=source, transform=WHOLE, tokenizer=None, max_tokens=0, targets=Objects(Given(), ("dog", "cat"))
    )
    batch = batch_of(data, 2, order_of(source, seed=0))
    row = batch.keys.index("row 0")
    assert [(one.said, one.colour) for one in frames_of(batch.targets, row, ("dog", "cat"))] == [("cat", 1)]
    assert frames_of({"label": 3}, 0) == []


def test_boxes_without_captions_are_shown_as_training_sees_them():
    source = Pictures([{"name": "dog", "box": [20, 10, 60, 40]}])
    assert not has_task(source[0])
    batch, tokenizer = sample_batch(source, n=2, size=32)
    assert tokenizer is None
    assert "box_names" in batch.targets
    assert grid(batch, tokenizer).mode == "RGB"
    batch, tokenizer = sample_batch(Pictures([], ("a dog",)), n=2, size=32)
    assert tokenizer is not None
    assert batch.targets["boxes"].shape == (0, 4)
