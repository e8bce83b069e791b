"""Class folders of emoji that no pre-training of this repository shows, to probe towers with.

    python -m projects.mim.drawings drawings

Scenes and classifiers draw the first 200 kinds and people; these are the next 50, each drawn 40 times to train on and
20 times, in other colours and places, to be measured on. The same call draws the same pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from mmkit.data.openmoji.scenes import Singles
from mmkit.errors import UserError
from mmkit.files import check_new_folder

SHOWN = 200  # kinds that pre-training draws
PARTS = {"train": (40, 0), "test": (20, 1)}  # drawings of each kind, and their seed


def draw(out: Path, kinds: int = 50, size: int = 96, plain: bool = True) -> None:
    """Write ``out/train`` and ``out/test``, a folder for each kind. UserError where ``out`` holds something."""
    check_new_folder(out)
    for part, (variations, seed) in PARTS.items():
        source = Singles(kinds=SHOWN + kinds, variations=variations, size=size, plain=plain, seed=seed)
        names = source.class_names
        for index in range(len(source)):
            label = index % len(names)
            if label < SHOWN:
                continue
            picture = source[index].image
            assert isinstance(picture, Image.Image)
            folder = out / part / names[label].replace("/", " ")
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{index // len(names):03}.png")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--kinds", type=int, default=50, help="so many (default 50)")
    parser.add_argument("--size", type=int, default=96, help="of a picture, in pixels (default 96)")
    args = parser.parse_args(arguments)
    try:
        draw(args.out, args.kinds, args.size)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
