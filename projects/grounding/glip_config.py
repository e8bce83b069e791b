"""GLIP on built-in scenes, on a CPU: detection as grounding, and phrases of captions beside it.

    mmkit train "projects/grounding/glip_config.py:glip(start='runs/quickstart')" --out runs/glip
    mmkit train "projects/grounding/glip_config.py:phrases(start='runs/quickstart')" --out runs/phrases
    mmkit detect --model runs/glip --image scene.png --text "a dog. a canoe." --out found.png
    mmkit detect --model runs/glip --data openmoji --json glip.json
    mmkit train "projects/grounding/glip_config.py:own(train='boxes.jsonl', start='runs/glip')" --out runs/mine

Paper: GLIP (Li et al. 2022, https://arxiv.org/abs/2112.03857), see README.md. Built-in scenes: one to three of 200
kinds of emoji on white, 96 pixels. A fifth of the kinds is never boxed: captions alone tell of these. Time and result:
see README.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mmkit.config import Data, Experiment, Run
from mmkit.config.allowed import HEAD
from mmkit.config.as_json import rebuild
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.objects import classes_in
from mmkit.data.openmoji.kinds import emoji_names, first_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import Want, open_source
from mmkit.errors import UserError
from mmkit.evals.detection.evaluate import Detection
from mmkit.evals.detection.phrases import Phrases
from mmkit.files import read_json
from mmkit.train.inherit import CONFIG
from projects.grounding.glip import GLIP
from projects.grounding.model import towers_mini
from projects.grounding.recipe import begins, groups_of, optim
from projects.grounding.targets import Asking
from projects.grounding.telling import Telling

WANTED: tuple[Want, ...] = ("boxes",)
PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)
SMALL = partial(GLIP, width=128, depth=2, read=128, heads=4, scales=(1.0,), anchor=4.0, scale=0.1, phrases=40)


def glip(
    start: str | None = None, seed: int = 42, steps: int = 1500, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 32, captions: float = 0.5, told: float = 1.0, tower: float = 0.2,
) -> Experiment:  # fmt: skip
    """GLIP on built-in scenes. start: a run whose towers it starts from, the quickstart's; None = nothing.

    captions: the share of pictures that are asked for by their caption. told: weight of what captions tell of kinds
    that are never boxed; 0 = of these nothing is learned. tower: what the towers' rate is of the head's.
    """
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, counts=(2, 1, 1))
    boxed, others = (partial(scenes, split="train", n=60_000, pool=pool) for pool in ("boxed", "all"))
    train = partial(Joined, parts=(boxed, others), weights=(1, 1)) if told else boxed
    return _small("glip-openmoji", train, start, seed, steps, size, kinds, lr, batch, captions, told, tower)


def phrases(
    start: str | None = None, seed: int = 42, steps: int = 1000, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 32, tower: float = 0.2,
) -> Experiment:  # fmt: skip
    """Phrase grounding alone, of captions whose phrases have boxes: what GLIP is pre-trained on beside detection."""
    train = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, split="train", n=60_000, pool="boxed")
    return _small("glip-phrases", train, start, seed, steps, size, kinds, lr, batch, 1.0, 0.0, tower)


def own(
    train: str, start: str, test: str | None = None, *, images: str | None = None, split: str | None = None,
    test_images: str | None = None, test_split: str | None = None, steps: int = 3000, size: int = 240, batch: int = 16,
    lr: float = 5e-4, seed: int = 42, tower: float = 0.2, told: float = 0.0,
) -> Experiment:  # fmt: skip
    """GLIP on your own pictures, from ``start``: a run of ``glip``, or a model with the quickstart's towers.

    Data whose captions name boxes (Flickr30k Entities, GoldG, ODVG, JSON lines with ``phrases``) are asked for by their
    captions, others (COCO, VOC, YOLO, JSON lines) by the names of their classes. images, split: of the data, as for
    ``mmkit detect --data``. size: pixels of the squashed picture, a multiple of 12. test: data of the same kind.
    told: weight of captions whose phrases nobody boxed ("boxes": []), from a start that has learned boxes; 0 = without.
    """
    source = partial(open_source, spec=train, wants=WANTED, images=images, split=split)
    found = source()
    said = any("phrases" in found[row].targets for row in range(min(len(found), 100)))
    if told and not said:
        raise UserError(f"{train}: told={told} is of captions with phrases, and these data have none")
    names, ids = ((), ()) if said else classes_in(found, train)
    evals = {}
    if test is not None:
        measured = partial(open_source, spec=test, wants=WANTED, images=test_images, split=test_split)
        evals["found"] = (
            partial(Detection, source=measured) if names else partial(Phrases, source=measured, rule="any-box")
        )
    asking: partial[Any] = partial(Telling, classes=(), captions=1.0) if said else partial(Asking, classes=names)
    return Experiment(
        name="glip-own",
        model=partial(towers_mini, image_size=size, max_tokens=32),
        heads={"ground": partial(form_of(start), classes=names, ids=ids, told=told)},
        data=Data(
            train=source, image_size=size, max_tokens=32, transform=PLAIN, targets=asking, global_batch=batch
        ),
        optim=optim(lr, tower),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals=evals,
        **begins(start),
    )  # fmt: skip


def form_of(start: str) -> partial[Any]:
    """The head of a run of GLIP, whose numbers another takes over; of other models that over three maps."""
    file = Path(start) / CONFIG
    head = read_json(file)["heads"].get("ground") if file.is_file() else None
    made = None if head is None else rebuild(head, HEAD)
    return made if made is not None and made.func is GLIP else partial(SMALL, scales=(2.0, 1.0, 0.5))


def _small(
    name: str, train: partial[Any], start: str | None, seed: int, steps: int, size: int, kinds: int, lr: float,
    batch: int, captions: float, told: float, tower: float,
) -> Experiment:  # fmt: skip
    classes = tuple(emoji_names(first_kinds(kinds)))
    groups = groups_of(kinds)
    measured = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, split="test", n=500)
    return Experiment(
        name=name,
        model=partial(towers_mini, image_size=size, max_tokens=32),
        heads={"ground": partial(SMALL, classes=classes, told=told)},
        data=Data(
            train=train,
            image_size=size,
            max_tokens=32,
            transform=PLAIN,
            targets=partial(
                Telling, classes=classes, captions=captions, unknown=groups["unboxed"]
            ),
            global_batch=batch,
        ),
        optim=optim(lr, 1.0 if start is None else tower),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={
            "detection": partial(Detection, source=measured, groups=groups, rounds=200),
            "phrases": partial(Phrases, source=measured, rule="any-box", rounds=200),
        },
        **begins(start),
    )  # fmt: skip
