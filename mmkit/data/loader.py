"""From a source to batches: each sample depends on (seed, epoch, index) alone, each step on its number alone.

A step takes the next ``rank_batch * accumulation * world`` records of the epoch's order; what remains at the end of an
epoch (less than one step) is left to the next orders. So every rank has the same number of micro-batches, a run resumes
from a step number without loading anything twice, and neither the number of workers nor the global random state enters
a sample. Left out: streaming sources without a length, and length bucketing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from mmkit.data.ahead import ahead_of
from mmkit.data.boxes import IN_PICTURE
from mmkit.data.collate import Collator, Sample
from mmkit.data.images.transforms import BlankTrain, drawn, draws
from mmkit.data.images.variable_size import KeepShapeTrain
from mmkit.data.images.view import View
from mmkit.data.order import Mixed, Order
from mmkit.data.records import Choose, Record, Source, by_one_caption
from mmkit.data.targets import RawTargets, TargetEncoder
from mmkit.data.text_files import stable_id
from mmkit.data.texts.masking import Masking, check_mask
from mmkit.data.texts.protocol import Kind, Tokenizer
from mmkit.data.video.frames import Frames
from mmkit.data.video.opening import open_for
from mmkit.data.workers import context_for
from mmkit.errors import Unreadable, UserError
from mmkit.parent import end_with_rank
from mmkit.seeds import check_seed
from mmkit.types import Batch, Pixels

Transform = Callable[[Image.Image, str, Random], tuple[Pixels, str]]

MAX_REPLACEMENTS = 100
"""So many unreadable pictures in a row are no accident."""


@dataclass(frozen=True, kw_only=True)
class PairDataset(Dataset[Sample]):
    """Pairs of a transformed picture and a tokenized caption, addressed by (epoch, index).

    tokenizer: None for pictures alone, whose records need no caption; nor do those of ``targets`` that make the words
    themselves (``needs_caption = False``).
    transform: (RGB picture, caption, Random) -> (pixels (3, h, w), caption), called by ``drawn``: ours give bytes,
    which travel as such, and one view for picture, words and boxes; see ``_view`` for records that ask.
    targets: makes what heads want of the record's targets.
    A clip is opened where the transform reads clips.
    A picture that cannot be read is replaced by the next readable record; ``Sample.skipped`` holds its message.
    """

    source: Source
    transform: Transform
    tokenizer: Tokenizer | None
    max_tokens: int
    masking: Masking | None = None
    targets: TargetEncoder = field(default_factory=RawTargets)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.masking is not None and self.tokenizer is not None:
            check_mask(self.tokenizer)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        epoch, index = at
        skipped: list[str] = []
        for step in range(min(MAX_REPLACEMENTS, len(self.source))):
            try:
                rng = Random(f"{self.seed} {epoch} {index}")
                record, number = self._visited((index + step) % len(self.source), rng)
                return self._sample(record, number, open_for(self.transform, record), rng, tuple(skipped))
            except Unreadable as error:  # the record, its picture, or a further picture among its targets
                skipped.append(str(error))
        raise UserError(
            f"{len(skipped)} pictures in a row cannot be read, the first: {skipped[0]}. See `mmkit data check`"
        )

    def _visited(self, index: int, rng: Random) -> tuple[Record, int]:
        """A record, and which of its captions is read in a run that reads one."""

        def choose(count: int) -> int:
            return rng.choice(range(count))

        if self._with_one_caption is not None:
            return self._with_one_caption(index, choose), 0
        record = self.source[index]
        return record, choose(len(record.captions)) if self._reads_captions and record.captions else 0

    @cached_property
    def _reads_captions(self) -> bool:
        return self.tokenizer is not None and getattr(self.targets, "needs_caption", True)

    @cached_property
    def _with_one_caption(self) -> Callable[[int, Choose], Record] | None:
        """The source's own way to give no more than is read, in a run that reads neither boxes nor further captions."""
        reads_more = any(getattr(self.targets, name, False) for name in ("reads_view", "reads_caption", "upright"))
        if reads_more or not self._reads_captions or not draws(self.transform):
            return None
        return by_one_caption(self.source)

    def _sample(
        self, record: Record, number: int, image: Image.Image | Frames, rng: Random, skipped: tuple[str, ...]
    ) -> Sample:  # fmt: skip
        if not self._reads_captions:
            pixels, _, view = drawn(self._view(record), image, ("",), rng)
            said = encoded(self.targets, record, rng, view=view)
            return Sample(
                pixels=pixels, image_id=stable_id(record.image_id), key=record.key, targets=said, skipped=skipped
            )
        if not record.captions:
            raise UserError(f"{record.key}: no caption, and this run trains on captions")
        pixels, caption, view = drawn(self._view(record), image, (record.captions[number],), rng)
        assert self.tokenizer is not None
        ids = self.tokenizer.encode(caption, self.max_tokens, kind_of(record))
        masked = self.masking(ids, self.tokenizer, rng) if self.masking is not None else None  # draws before targets
        said = encoded(self.targets, record, rng, caption, view, number)
        return Sample(
            pixels=pixels, image_id=stable_id(record.image_id), key=record.key, ids=ids, caption=caption, masked=masked,
            caption_id=stable_id(" ".join(map(str, ids))),  # what the model reads alike is one text
            targets=said, skipped=skipped,
        )  # fmt: skip

    def _view(self, record: Record) -> Transform:
        """The transform; without its mirroring for a record that asks, whose answers would stay as they are, and for
        one with a class of objects that would be another one.
        """
        upright = getattr(self.targets, "upright", None)
        if asks(record) or (upright is not None and _of(record, upright, record.targets)):
            return still(self.transform)
        return self.transform


def encoded(
    targets: TargetEncoder, record: Record, rng: Random, caption: str | None = None, view: View | None = None,
    number: int | None = None,
) -> Mapping[str, Any]:  # fmt: skip
    """A record's targets, made ready; UserError names the record.

    caption, number: for encoders that read it, as the view turned it, and which of the record's it is. view: for
    encoders that read it; others get nothing that lies in the picture, which would not be true of the view.
    """
    said = record.targets
    if getattr(targets, "reads_view", False):
        if view is None:
            raise UserError(
                f"{record.key}: the boxes of this run need to know what its transform shows of a picture, and it does "
                "not say: give it `draw` for training, `view` for evaluation (docs/boxes.md), or take mmkit's"
            )
        said = {**said, "view": view}
    elif view is not None and not IN_PICTURE.isdisjoint(said):
        said = {key: value for key, value in said.items() if key not in IN_PICTURE}
    if caption is not None and getattr(targets, "reads_caption", False):
        said = {**said, "caption": caption, "caption_number": number, "captions": record.captions}
    encode: Callable[..., Mapping[str, Any]] = targets.encode
    return _of(record, encode, said, rng)


def _of(record: Record, make: Callable[..., Any], *given: Any) -> Any:
    """``make(*given)``, whose UserError then names the record."""
    try:
        return make(*given)
    except Unreadable:
        raise
    except UserError as error:
        raise UserError(f"{record.key}: {error}") from error


def asks(record: Record) -> bool:
    """Whether the captions of a record are questions."""
    return not record.targets.keys().isdisjoint(("question", "answers", "answer"))


def kind_of(record: Record) -> Kind:
    """What the captions of a record are."""
    return "question" if asks(record) else "caption"


def still(transform: Transform) -> Transform:
    """The transform without its mirroring, where it has a ``flip`` that says how often."""
    if isinstance(transform, BlankTrain):
        return BlankTrain(still(transform.transform))
    if not is_dataclass(transform) or not getattr(transform, "flip", None):
        return transform
    unmirrored: Transform = replace(cast(Any, transform), flip=0.0)
    return unmirrored


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of one rank's micro-batches, for steps ``start_step`` up to ``steps``.

    Micro-batch a of rank r is chunk ``a * world + r`` of the step, so that n accumulation steps on one rank see the
    same samples in the same order as n ranks with one. Both steps count from the run's first one. order: of how many
    records, or in which order they are taken, if not in the plain one of this seed.
    """

    def __init__(
        self, order: int | Order | Mixed, *, rank_batch: int, steps: int, accumulation: int = 1, rank: int = 0,
        world: int = 1, seed: int = 0, start_step: int = 0, block: int = 1,
    ) -> None:  # fmt: skip
        check_seed(seed, "seed")
        self.order = Order(size=order, seed=seed, block=block) if isinstance(order, int) else order
        size = self.order.size
        self.rank_batch, self.accumulation, self.seed = rank_batch, accumulation, seed
        self.rank, self.world, self.start_step, self.steps = rank, world, start_step, steps
        self.global_batch = rank_batch * accumulation * world
        if self.global_batch < 1 or not 0 <= rank < world:
            raise UserError(f"rank_batch={rank_batch}, accumulation={accumulation}, rank {rank} of {world}: no batch")
        self.steps_per_epoch = size // self.global_batch
        if not self.steps_per_epoch:
            raise UserError(
                f"{size} records are fewer than one step of {self.global_batch} "
                f"(rank_batch {rank_batch} x accumulation {accumulation} x {world} ranks); make the batch smaller"
            )

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.steps):
            for micro in range(self.accumulation):
                start = (micro * self.world + self.rank) * self.rank_batch
                places = np.arange(start, start + self.rank_batch)
                epochs, indices = self.order.visits(step, places, self.global_batch)
                yield list(zip(epochs.tolist(), indices.tolist(), strict=True))


def make_loader(
    dataset: PairDataset, sampler: StepSampler, *, workers: int = 0, pinned: bool = False
) -> DataLoader[Batch]:
    """One pass over the micro-batches of the sampler.

    Does not touch the global random state. Unequal pictures are padded to one canvas when there are several ranks;
    texts are as long as this rank's longest, see ``lengths.of_one_length``. pinned: in memory that a GPU copies from by
    itself; then workers come from a server that knows nothing of the GPU and its threads, where the data allow it.
    """
    transform = dataset.transform
    collator = Collator(
        pad_id=0 if dataset.tokenizer is None else dataset.tokenizer.pad_id, max_tokens=dataset.max_tokens,
        canvas=transform.canvas if sampler.world > 1 and isinstance(transform, KeepShapeTrain) else None,
        targets=dataset.targets,
    )  # fmt: skip
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # its indices are pairs
        batch_sampler=ahead_of(sampler, dataset.source), collate_fn=collator, num_workers=workers,
        prefetch_factor=4 if workers else None, worker_init_fn=end_with_rank, pin_memory=pinned,
        multiprocessing_context=context_for(pinned, dataset, collator) if workers else None,
        generator=Generator().manual_seed(sampler.seed),  # the base seed of workers would come from the global state
    )  # fmt: skip
