"""Built-in class names and templates for zero-shot classification, by name; anything else is a file of the user's.

ImageNet's 1,000 names and 80 templates are those that open_clip ships, taken from it when they are used; its folder
names (n01440764, ...) come from timm. The rest is written here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmkit.data import text_files
from mmkit.data.texts.answers.lists import SEEMS_JSON
from mmkit.errors import UserError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly, "
    "camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, "
    "dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower, "
    "leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid, "
    "otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, "
    "road, rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, "
    "sunflower, sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, "
    "wardrobe, whale, willow tree, wolf, woman, worm"
)
CIFAR100 = tuple(_CIFAR100.split(", "))
PHOTO = ("a photo of a {}.",)
EMOJI = ("a {}", "an {}")
CHINESE = (
    "一张{}的照片。", "一张{}的图片。", "照片里有{}。", "这是{}。", "图中是{}。", "一幅{}的画。", "{}的特写。",
    "一张模糊的{}照片。", "一张清晰的{}照片。", "一张明亮的{}照片。", "一张昏暗的{}照片。", "远处的{}。",
    "一个小小的{}。", "一个很大的{}。", "{}的卡通图。", "{}的简笔画。",
)  # fmt: skip
CLASS_SETS = ("imagenet", "cifar10", "cifar100", "openmoji", "openmoji:LANGUAGE")
TEMPLATE_SETS = ("imagenet", "imagenet7", "photo", "openmoji", "zh")


@dataclass(frozen=True)
class ClassSet:
    """names: what the classes are called. keys: what labels or folders may be called instead, a name for each class.

    ordered: whether labels that are numbers, or as many sorted folders as there are names, follow their order.
    """

    names: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    ordered: bool = True


def built_in_classes(name: str) -> ClassSet | None:
    """The set of that name, or None. UserError for an unknown language of ``openmoji:LANGUAGE``."""
    if name == "imagenet":
        import open_clip

        names = tuple(open_clip.IMAGENET_CLASSNAMES)
        return ClassSet(names, (imagenet_folders(), names))
    if name in ("cifar10", "cifar100"):
        names = CIFAR10 if name == "cifar10" else CIFAR100
        return ClassSet(names, (names,))
    kind, _, language = name.partition(":")
    if kind == "openmoji":
        from mmkit.data.openmoji.scenes import class_names

        names = tuple(class_names(language=language or "en"))
        return ClassSet(names, (names, tuple(class_names())))
    return None


def imagenet_folders() -> tuple[str, ...]:
    """The WordNet ids that ImageNet's folders are called, in the order of its classes."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def templates_named(name: str | Path) -> tuple[str, ...]:
    """The built-in templates of that name, or the one that the text is, if it holds {}; else those in that file."""
    if name in ("imagenet", "imagenet7"):
        import open_clip

        made = open_clip.OPENAI_IMAGENET_TEMPLATES if name == "imagenet" else open_clip.SIMPLE_IMAGENET_TEMPLATES
        return tuple(template("{}") for template in made)
    sets = {"photo": PHOTO, "openmoji": EMOJI, "zh": CHINESE}
    if str(name) in sets:
        return sets[str(name)]
    if not os.path.isfile(name):
        if "{}" in str(name):
            check_templates([str(name)], "--templates")
            return (str(name),)
        raise UserError(f'--templates {name}: no file, none of {", ".join(TEMPLATE_SETS)}, and no "a photo of a {{}}."')
    return read_templates(name)


def default_templates(classes: str | Path | None) -> Sequence[str]:
    """What belongs to a built-in class set; ``("{}",)`` for everything else."""
    kind, _, language = str(classes).partition(":")
    if kind == "openmoji":
        return EMOJI if language in ("", "en") else ("{}",)
    if kind in ("cifar10", "cifar100"):
        return PHOTO
    return templates_named("imagenet") if kind == "imagenet" else ("{}",)


def check_templates(templates: Sequence[str], where: str) -> None:
    """UserError for a template without {}, or none at all."""
    if isinstance(templates, str) or not templates:
        raise UserError(f'{where}: give a list of templates such as "a photo of a {{}}."')
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f'{where}: "{template}" must hold {{}} once, where the class name goes')


def read_templates(path: str | Path) -> tuple[str, ...]:
    """One template per line, each with {} where the class name goes; blank lines and # comments are skipped."""
    templates = tuple(read_lines(path, "templates"))
    check_templates(templates, str(path))
    return templates


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a UTF-8 file, without blank ones and those that start with #; or the texts of a JSON list.

    UserError when none are left, for other JSON, and where every line stands in quotes.
    """
    text = text_files.read_text(path, f"{what}, one per line")
    if Path(path).suffix.lower() == ".json" or SEEMS_JSON.match(text):
        return _in_json(path, what)
    given = text_files.split_lines(text)
    lines = [line.strip() for line in given if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: no {what} in this file; write one per line")
    if all(re.fullmatch(r"""(["']).*\1,?""", line) for line in lines):
        raise UserError(f"{path}: every line stands in quotes, which would be read as they are; write {what} without")
    text_files.check_not_numbered(lines, path)
    return lines


def _in_json(path: str | Path, what: str) -> list[str]:
    """A JSON list of texts, or an object that numbers them from 0."""
    value = text_files.read_json(path, f"{what}, one per line, or a JSON list of them")
    if isinstance(value, dict) and value.keys() == {str(i) for i in range(len(value))}:
        value = [value[str(i)] for i in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f'{path}: no JSON list of {what}; write one per line, or ["...", "..."]')
    return [text.strip() for text in value]
