"""A picture of a batch as the model sees it: the pixels after every transform, the caption, which tokens are hidden.

For ``mmkit data show SOURCE --out grid.png``. Captions in scripts that Pillow's own font lacks need a font of the
system. Boxes are drawn as the view has them; of a clip all frames are shown side by side, without boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from mmkit.data.clip import Clip
from mmkit.data.images.transforms import CLIP_MEAN, CLIP_STD, TrainTransform, Triple
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.order import Mixed, Order, order_of
from mmkit.data.records import Source, captions_of
from mmkit.data.show.boxes import Named, framed, frames_of
from mmkit.data.show.words import GAP, LINE, WHITE, chips, in_rows, legend, wrap, write
from mmkit.data.targets import Given, RawTargets
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.data.texts.protocol import Tokenizer
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.strip import FRAMES, strip
from mmkit.data.video.transforms import ClipTrain
from mmkit.errors import UserError
from mmkit.types import Batch


def sample_batch(source: Source, *, n: int = 16, size: int = 128, seed: int = 0) -> tuple[Batch, Tokenizer | None]:
    """A training batch of a source, with a small tokenizer made for the occasion where there are captions."""
    captions = [caption for _, caption in zip(range(20_000), captions_of(source), strict=False)]
    tokenizer = SentencePieceTokenizer.train(captions, vocab_size=2000) if captions else None
    boxed = "boxes" in source[0].targets
    transform = TrainTransform(size=size, scale=(0.5, 1.0))
    if isinstance(source[0].image, Clip):
        sampler = Sampler(how="segments", frames=FRAMES)
        transform = ClipTrain(size=size, scale=(0.5, 1.0), randaugment=None, sampler=sampler)
    dataset = PairDataset(
        source=source, transform=transform, tokenizer=tokenizer, max_tokens=40,
        masking=Masking(whole_word=True), seed=seed, targets=Named(Given(), ()) if boxed else RawTargets(),
    )  # fmt: skip
    return batch_of(dataset, n, order_of(source, seed=seed)), tokenizer


def batch_of(dataset: PairDataset, n: int, order: Order | Mixed) -> Batch:
    """The first ``n`` samples, or as many as there are records, in this order."""
    sampler = StepSampler(order, rank_batch=min(n, len(dataset)), steps=1, seed=order.seed)
    return next(iter(make_loader(dataset, sampler)))


def grid(
    batch: Batch, tokenizer: Tokenizer | None, *, columns: int | None = None, mean: Triple = CLIP_MEAN,
    std: Triple = CLIP_STD, limit: int = 64, classes: Sequence[str] = (),
) -> Image.Image:  # fmt: skip
    """The pictures of a batch in rows, each with its words below; hidden words are chips, explained in the last line.

    mean, std: of the normalisation, to be undone. limit: no more pictures than this. classes: what the numbers of
    boxes are called; boxes that are no targets of the batch are not shown.
    """
    n = min(len(batch), limit)
    if n == 0:
        raise UserError("an empty batch has nothing to show")
    batch = batch.normalised()
    images = [_with_boxes(batch, i, _enlarge(to_image(batch.pixels[i], mean, std)), classes) for i in range(n)]
    texts = [wrap(chips(batch, i, tokenizer), images[0].width) for i in range(n)]
    sizes = [(image.width, image.height + LINE * len(text) + 6) for image, text in zip(images, texts, strict=True)]
    places, (width, height) = in_rows(sizes, columns)
    notes = wrap(legend(), width - 2 * GAP) if batch.masked is not None else []
    canvas = Image.new("RGB", (width, height + LINE * len(notes)), WHITE)
    pen = ImageDraw.Draw(canvas)
    for image, text, (left, top) in zip(images, texts, places, strict=True):
        canvas.paste(image, (left, top))
        write(pen, text, left, top + image.height + 6)
    write(pen, notes, GAP, height - GAP // 2)
    return canvas


def to_image(pixels: torch.Tensor, mean: Triple = CLIP_MEAN, std: Triple = CLIP_STD) -> Image.Image:
    """(3, h, w) normalised pixels back to a picture; of a clip (3, T, h, w) its frames side by side."""
    if pixels.ndim == 4:
        return strip([to_image(frame, mean, std) for frame in pixels.unbind(1)])
    values = pixels.detach().float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    array = (values * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def _with_boxes(batch: Batch, row: int, image: Image.Image, classes: Sequence[str]) -> Image.Image:
    frames = frames_of(batch.targets, row, classes) if batch.pixels.ndim == 4 else []
    return framed(image, frames, image.width / batch.pixels.shape[-1]) if frames else image


def _enlarge(image: Image.Image, width: int = 200) -> Image.Image:
    if image.width >= width:
        return image
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.NEAREST)
