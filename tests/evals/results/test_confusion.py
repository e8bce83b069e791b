import pytest
import torch
from PIL import Image, ImageDraw

from mmkit.errors import UserError
from mmkit.evals.results.confusion import (
    CELL,
    confused_pairs,
    draw_confusion,
    save_confusion,
    shown_classes,
)

MATRIX = torch.tensor([[8, 2, 0], [0, 5, 5], [1, 0, 9]])
NAMES = ("cat", "a very long name that no line of the picture can hold", "猫")


def test_pairs_are_sorted_by_how_often():
    assert confused_pairs(MATRIX) == [(1, 2, 5), (0, 1, 2), (2, 0, 1)]
    assert confused_pairs(torch.eye(3, dtype=torch.int64)) == []


def test_of_many_classes_the_most_confused_are_shown():
    matrix = torch.eye(100, dtype=torch.int64) * 10
    matrix[70, 3], matrix[5, 99] = 4, 2
    shown = shown_classes(matrix, 6)
    assert shown == sorted(shown)
    assert {70, 3, 5, 99} <= set(shown)
    assert len(shown) == 6
    assert shown_classes(matrix, 3) == [0, 3, 70]


def test_the_picture_shows_each_mistake(tmp_path):
    image = draw_confusion(NAMES, MATRIX)
    assert image.width < 900
    blank = draw_confusion(NAMES, MATRIX.diag().diag())
    assert image.size == blank.size
    path = tmp_path / "new" / "c.png"
    save_confusion(path, NAMES, MATRIX)
    assert Image.open(path).size == image.size
    left, top = 168, 194  # of the matrix

    def colour(picture, row, column):
        return picture.getpixel((left + CELL * column + 4, top + CELL * row + 4))

    assert colour(image, 0, 2) == (255, 255, 255)
    strong, weak = colour(image, 1, 2), colour(image, 0, 1)
    assert strong[0] > strong[1]
    assert weak[0] > weak[1]
    assert strong[1] < weak[1]  # the more, the darker
    right = colour(image, 2, 2)
    assert right[1] > right[0]  # hits are green
    assert colour(blank, 1, 2) == (255, 255, 255)


def test_a_name_without_a_suffix_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"give a name that ends in \.png"):
        save_confusion(tmp_path / "picture", NAMES, MATRIX)


def test_the_title_says_what_was_confused(tmp_path, monkeypatch):
    said = []
    text = ImageDraw.ImageDraw.text

    def heard(pen, at, what, **options):
        said.append(what)
        text(pen, at, what, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", heard)
    save_confusion(tmp_path / "c.png", NAMES, MATRIX, "re-ranked top 3")
    assert said[0].startswith("re-ranked top 3: ")
    assert " pictures right" in said[0]
    said.clear()
    save_confusion(tmp_path / "c.png", NAMES, MATRIX, what="clips")
    assert " clips right" in said[0]
