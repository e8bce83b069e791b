"""The classes that a detector knows: their names, and the ids under which they were published."""

from __future__ import annotations

from collections.abc import Sequence

from mmkit.errors import UserError

LARGEST = 1_000_000
"""The largest number that a saved model may name."""


def check_classes(classes: Sequence[str], ids: Sequence[int] = ()) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Both as tuples, the ids 1, 2, ... where none are given. UserError for none, for doubles, and unequal numbers."""
    names, numbers = tuple(classes), tuple(ids) or tuple(range(1, len(classes) + 1))
    if not names or len(set(names)) < len(names):
        raise UserError(f"a detector's classes: {len(names)} names; give at least one, and each once")
    if len(numbers) != len(names) or len(set(numbers)) < len(numbers):
        raise UserError(
            f"a detector's classes: {len(names)} names, {len(numbers)} ids; give each name an id of its own"
        )
    if not all(0 <= number <= LARGEST for number in numbers):
        raise UserError(f"a detector's ids: {min(numbers)} to {max(numbers)}; give whole numbers from 0 to {LARGEST:,}")
    return names, numbers


COCO = {
    1: "person bicycle car motorcycle airplane bus train truck boat", 10: "traffic_light fire_hydrant",
    13: "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe",
    27: "backpack umbrella", 31: "handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle", 46: "wine_glass cup fork knife spoon bowl banana apple "
    "sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed", 67: "dining_table",
    70: "toilet", 72: "tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator",
    84: "book clock vase scissors teddy_bear hair_drier toothbrush",
}  # fmt: skip
"""COCO's 80 names by the number of the first of each row."""


def coco_class(number: int) -> str:
    """What COCO calls a number; "N/A" for one that it never used."""
    for first, names in COCO.items():
        row = names.split()
        if first <= number < first + len(row):
            return row[number - first].replace("_", " ")
    return "N/A"
