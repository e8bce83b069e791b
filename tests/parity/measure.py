"""How far ours is from the original implementation: asserted, and noted for the table of ``docs/parity.md``.

A test whose differences belong in the table has the marker ``parity(layout, against)``. The table is made by

    pytest tests/parity tests/convert tests/models projects --parity-table docs/parity.md

Differences are relative to the tensor's largest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor  # the process that only hands tests to the workers does without torch

PROPERTY = "parity"
ROUNDING = 5e-7
CANCELLED = "gradients that cancel"
ORDER = (
    "outputs", "loss", "gradients", CANCELLED, "teacher and queues", "after a step of AdamW", "after several steps",
    "there and back",
)  # fmt: skip
HEAD = """# How far mmkit is from the original implementations

Measured, not typed. This page is written by the comparisons themselves:

    pytest tests/parity tests/convert tests/models projects --parity-table docs/parity.md

The largest difference is that of all tensors that were compared, relative to the largest value of each; beside it
stands what the test allows. Models are of tiny random sizes, in float32 on one CPU core; "recorded" are the tensors of
the official code in `tests/oracles/`, and in the folder that `MMKIT_ORACLES` names. "There and back" is a file that was
converted and written again: the same keys, shapes and bits. "Gradients that cancel" are those of queries and keys that
are less than a hundredth of the model's largest gradient; their differences are relative to that one. "After several
steps" are the parameters, all but one value in 1,000: AdamW divides a gradient by its own size, and so enlarges the
rounding of one that is next to 0.

| layout | compared with | what | largest difference | allowed | tensors |
|---|---|---|---|---|---|
"""


NO_ORACLE = """What no installed program can be asked:

- MAE's linear probe by LARS, and every fine-tuned accuracy of MAE, SimMIM and BEiT: not measured here.
- The fixed positions of MAE are held against a copy of its own code; transformers' of release 5 have rows first.
- SimMIM on Swin: the formula of its loss alone is compared: a network of others cannot have patches replaced, and is
  refused (`projects/mim/test_mim.py`).
- BEiT's ids: those of DALL-E's encoder are not to be had; k-means stands in their place. Its masks are held against a
  copy of the published generator, as distributions.
- ViViT's models 2 to 4 are in no installed package: loops written out in the test stand in their place
  (`tests/parity/test_vivit.py`). Its accuracies are not measured here.
- The nearest neighbours and linear heads of `mmkit probe` are held against plain loops (`tests/evals/probe`), as no
  installed package has DINOv2's; the attentive head has no reference at all.
- Mixup, CutMix and erasing are held against their formulas (`tests/train/test_mixing.py`): others draw otherwise.
- GIT's last layer: ours has BERT's transform, and is tied to the words; the states before it are compared.
- Texts are equal to transformers' generation by beams and one by one (`tests/encoders/test_decoding.py`); drawn ones by
  what is left to draw from and in their frequencies, as the random numbers are others.
- METEOR and SPICE, which need Java and word lists, are not there. BLEU, ROUGE-L and CIDEr-D equal pycocoevalcap's own
  programs (`tests/evals/captions/test_scores.py`).
- VideoMAE, CoCa, the quantiser of BEiT v2 and BEiT-3 are not built.
- GLIP is in no installed package (its own code needs CUDA and torch 1.9). Fusion, alignment, assignment, codes, losses
  and their gradients are held against loops written out, torchvision's focal and GIoU losses, and, for the fusion,
  transformers' Grounding DINO (`projects/grounding/test_glip_parts.py`, `test_assigning.py`, `test_dynamic.py`,
  `test_parity.py`). No published number of GLIP or Grounding DINO was measured here.
"""


@dataclass(frozen=True)
class Note:
    """One comparison. difference: relative; None = equal bits."""

    what: str
    difference: float | None
    bound: float
    layout: str = ""
    against: str = ""


_notes: list[Note] = []


def start() -> None:
    """Forget what was noted."""
    _notes.clear()


def noted(layout: str, against: str) -> list[dict[str, Any]]:
    """What was noted since, as JSON-able values."""
    return [asdict(note) | {"layout": layout, "against": against} for note in _notes]


def assert_near(
    ours: Tensor, theirs: Tensor, bound: float, name: str = "", what: str = "outputs", largest: float = 0.0
) -> None:
    """The largest difference is at most ``bound`` of the largest value of ``theirs``.

    largest: of the model's gradients, given for one that may cancel to a fraction of it. What is then left of it is the
    rounding of the others: a difference of 5e-7 of ``largest`` is allowed where that is more.
    """
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} and {tuple(theirs.shape)}"
    difference = (ours.float() - theirs.float()).abs().max().item()
    scale = theirs.float().abs().max().item()
    if bound * scale < ROUNDING * largest:
        what, bound, scale = CANCELLED, ROUNDING, largest
    _notes.append(Note(what, difference / scale if scale else difference, bound))
    assert difference <= bound * scale + 1e-12, f"{name}: differs by {difference:.2e}, largest value {scale:.2e}"


def assert_most_near(
    pairs: Sequence[tuple[Tensor, Tensor]], bound: float, outliers: float, farthest: float, what: str
) -> None:
    """Of the values of all pairs (ours, theirs), all but a share of ``outliers`` are as near as ``assert_near`` asks.

    The outliers too differ by ``farthest`` at most, which is absolute.
    """
    import torch

    differences = [(ours - theirs).abs().flatten() for ours, theirs in pairs]
    assert max(difference.max().item() for difference in differences) <= farthest
    found = [difference / theirs.abs().max() for difference, (_, theirs) in zip(differences, pairs, strict=True)]
    values = torch.cat(found).sort().values
    limit = values[len(values) - int(outliers * len(values)) - 1]
    _notes.extend(Note(what, part.where(part <= limit, 0.0).max().item(), bound) for part in found)
    assert limit <= bound, f"{(values > bound).sum()} of {len(values)} values differ by more than {bound}"


def assert_same_state(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same keys, types, shapes and bits."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        assert ours[name].equal(value), name
    _notes.extend([Note("there and back", None, 0.0)] * len(theirs))


def write_table(path: Path, notes: Iterable[Mapping[str, Any]]) -> None:
    """The page, one row for each layout, original and kind of number."""
    rows: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for note in notes:
        rows.setdefault((note["layout"], note["against"], note["what"]), []).append(note)
    lines = []
    for (layout, against, what), group in sorted(
        rows.items(), key=lambda row: (row[0][0], row[0][1], ORDER.index(row[0][2]))
    ):
        found = [note["difference"] for note in group if note["difference"] is not None]
        measured, allowed = f"{max(found, default=0.0):.1e}", f"{max(note['bound'] for note in group):.0e}"
        if not found:
            measured, allowed = "equal bits", "equal bits"
        lines.append(f"| {layout} | {against} | {what} | {measured} | {allowed} | {len(group):,} |")
    path.write_text("\n".join([HEAD + "\n".join(lines), "", NO_ORACLE]), encoding="utf-8")
