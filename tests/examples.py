"""Small random batches and tasks that many tests use."""

import torch

from mmkit.heads.captioning import Captioner, PrefixCaptioner
from mmkit.heads.image_classify import ImageClassify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.heads.sigmoid import Sigmoid
from mmkit.heads.wpa import WPA
from mmkit.task import Task
from mmkit.types import Batch, MaskedText
from tests.sizes import albef_tiny

VOCAB = 64
PAD, CLS, MASK = 0, 2, 4


def batch(size=6, *, length=10, image_size=32, seed=0, pad=0) -> Batch:
    """Random pictures and texts of 4 to ``length`` tokens, two words of each hidden; ``pad`` adds empty columns."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randn(size, 3, image_size, image_size, generator=g)
    ids = torch.randint(5, VOCAB, (size, length), generator=g)
    lengths = torch.randint(4, length + 1, (size,), generator=g)
    lengths[0] = length
    ids[:, 0] = CLS
    mask = torch.arange(length) < lengths[:, None]
    ids = ids.where(mask, PAD)
    positions = torch.tensor([[1, 3]]).expand(size, -1).contiguous()
    masked = ids.scatter(1, positions, MASK)
    if pad:
        grow = lambda x, value: torch.cat([x, x.new_full((size, pad), value)], 1)  # noqa: E731
        ids_p, masked, mask = grow(ids, PAD), grow(masked, PAD), grow(mask, False)
    else:
        ids_p = ids
    return Batch(
        pixels=pixels, ids=ids_p, mask=mask, image_id=torch.arange(size) + 1000 * seed,
        caption_id=torch.arange(size) + 1000 * seed + 500,
        targets={"label": torch.arange(size) % 4} | captions(ids, lengths),
        keys=tuple(f"sample {i}" for i in range(size)),
        masked=MaskedText(
            ids=masked, positions=positions, index=torch.arange(2 * size), labels=ids.gather(1, positions).flatten()
        ),
    )  # fmt: skip


def captions(ids, lengths):
    """As ``CaptionTokens`` would make them of the texts, without what ends them."""
    width = ids.shape[1]
    index = [row * width + i for row, n in enumerate(lengths.tolist()) for i in range(n - 1)]
    at = torch.tensor(index)
    return {"caption_ids": ids, "caption_index": at, "caption_labels": ids.flatten()[at + 1]}


HEADS = {
    "itc": lambda spec: ITC(spec, queue_size=20),
    "itm": ITM,
    "mlm": MLM,
    "itm_mixed": lambda spec: ITM(spec, negatives="mixed", pooler=True),
    "mlm_untied": lambda spec: MLM(spec, tied=False),
    "sigmoid": Sigmoid,
    "wpa": WPA,
    "caption": lambda spec: Captioner(spec, depth=1, heads=2, max_tokens=16, dropout=0.0),
    "caption_prefix": lambda spec: PrefixCaptioner(spec, depth=1, heads=2, max_tokens=16, dropout=0.0),
    "image": lambda spec: ImageClassify(spec, ("a", "b", "c", "d")),
}


def task(heads=("itc", "itm", "mlm"), *, seed=0, model=albef_tiny, **options) -> Task:
    """A tiny ALBEF, or another model, with these heads."""
    torch.manual_seed(seed)
    model = model(VOCAB)
    return Task(model, {name: HEADS[name](model.spec) for name in heads}, **options)


def same_state(before: dict, after: dict) -> bool:
    """Whether two state dicts hold the same bits."""
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
