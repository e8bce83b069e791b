"""Captions of mirrored pictures, and ALBEF's cleaning."""

import pytest

from mmkit.data.text_ops import clean_caption, swap_left_right

SWAPS = [
    ("A dog to the left of a cat", "A dog to the right of a cat"),
    ("Left: a dog; right: a cat", "Right: a dog; left: a cat"),
    ("the leftmost man, left-hand side", "the rightmost man, right-hand side"),
    ("links ein Hund, das rechte Auge", "rechts ein Hund, das linke Auge"),
    ("chien à gauche de chat", "chien à droite de chat"),
    ("a la izquierda un perro", "a la derecha un perro"),
    ("cane a sinistra di gatto", "cane a destra di gatto"),
    ("cão à esquerda de gato", "cão à direita de gato"),
    ("狗在猫左边", "狗在猫右边"),
    ("猫の左に犬", "猫の右に犬"),
    ("고양이 왼쪽에 개", "고양이 오른쪽에 개"),
    ("слева собака, справа кошка", "справа собака, слева кошка"),
    ("solda köpek, sağda kedi", "sağda köpek, solda kedi"),
    ("anjing di kiri kucing", "anjing di kanan kucing"),
    ("سگ سمت چپ گربه", "سگ سمت راست گربه"),
    ("كلب على يسار قطة", "كلب على يمين قطة"),
]


@pytest.mark.parametrize(("one", "other"), SWAPS)
def test_left_and_right_change_places_and_back(one, other):
    assert swap_left_right(one) == other
    assert swap_left_right(other) == one


@pytest.mark.parametrize(
    "caption", ["a dog on a red car", "copyright notice", "cleft rock, brightly lit", "一只狗", "sağlık", "alleluia"]
)
def test_other_captions_stay(caption):
    assert swap_left_right(caption) == caption


@pytest.mark.parametrize(
    "caption",
    [
        "they are all right", "one piece is left", "a bag left behind", "civil rights march", "leaving right now",
        "左右两只狗", "po lewej stronie pies", "le côté gauche", "till vänster en hund",
        "chó ở bên trái", "αριστερά ένας σκύλος",
    ],
)  # fmt: skip
def test_unsafe_captions_are_not_swapped(caption):
    assert swap_left_right(caption) is None


def test_cleaning_follows_the_recipe():
    assert (
        clean_caption(' A man\'s T-shirt, and/or "hat"! (red) <person> *#:;~ \n')
        == "a mans t shirt and or hat red person"
    )
    assert clean_caption("word " * 40).split() == ["word"] * 30
    assert clean_caption("one two three", max_words=2) == "one two"
