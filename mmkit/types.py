"""The values that pass between the parts, and the legend for the shape suffixes of tensor names.

Shape suffixes (used in nn/, encoders/, models/, heads/, losses.py and features.py; plain names elsewhere):

    B  samples of this rank's batch      D  width of a token
    L  text tokens                       E  width of the joint (contrastive) space
    P  image tokens                      H  attention heads
    N  tokens of either kind, or items   K  queue entries
    M  masked positions per text         V  vocabulary entries
    G  samples of all ranks together     T  video frames

One convention for every mask: bool, ``True`` = a real token. ``None`` stands for "all are real", which
lets attention take its fastest path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkit.errors import UserError


class Tokens(NamedTuple):
    """Features of a padded sequence: ``x`` (B, N, D) float; ``mask`` (B, N) bool or None when all are real."""

    x: Tensor
    mask: Tensor | None = None

    def full_mask(self) -> Tensor:
        """The mask as a tensor (B, N) bool, also where it is None."""
        return self.mask if self.mask is not None else self.x.new_ones(self.x.shape[:2], dtype=torch.bool)

    def rows(self, index: Tensor) -> Tokens:
        """Those of the sequences ``index`` (int64), in that order."""
        return Tokens(self.x[index], None if self.mask is None else self.mask[index])


class Fused(NamedTuple):
    """What texts and pictures became by reading each other, by name.

    text: the states (B, L, D) of the texts, or (B, M, D) at the positions that were asked for. image: those of the
    pictures (B, P, D) where they read the texts too; None where they did not, or positions were asked for.
    """

    text: Tokens
    image: Tokens | None = None

    @property
    def first(self) -> Tensor:
        """The first state of each text (B, D), that of [CLS]: what classifiers read."""
        return self.text.x[:, 0]

    def together(self) -> Tokens:
        """All states in one sequence, the text's first: (B, N, D)."""
        if self.image is None:
            return self.text
        x_BND = torch.cat([self.text.x, self.image.x], 1)
        if self.text.mask is None and self.image.mask is None:
            return Tokens(x_BND)
        return Tokens(x_BND, torch.cat([self.text.full_mask(), self.image.full_mask()], 1))


@dataclass(frozen=True, kw_only=True)
class MaskedText:
    """A text with some tokens hidden, and what stood there (BERT, Devlin et al. 2019, section 3.1).

    ids: (B, L) int64, the text after masking.
    positions: (B, M) int64, the hidden positions of each row; rows with fewer than M are filled up with 0.
    index: (N,) int64, which entries of ``positions.flatten()`` are real; N is known on the host, so that
        selecting them needs no device synchronisation.
    labels: (N,) int64, the original ids at those entries.
    """

    ids: Tensor
    positions: Tensor
    index: Tensor
    labels: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MaskedText:
        """The same on another device."""
        return self.each(lambda x: x.to(device, non_blocking=non_blocking))

    def each(self, change: Callable[[Tensor], Tensor]) -> MaskedText:
        """With every tensor changed."""
        return MaskedText(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Patches that a second look at pictures does not see: those left out, or those that a vector stands for.

    keep: (B, V) int64, the numbers in the grid of the patches that stay, as many in each picture, in the order in which
        they come out; the others are left out and cost nothing.
    hidden: in its place (B, P) bool, True = a patch whose token becomes ``by`` (D,) after the embedding, before
        positions are added; any number in each picture.
    """

    keep: Tensor | None = None
    hidden: Tensor | None = None
    by: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.hidden is None) or (self.hidden is None) != (self.by is None):
            raise ValueError(
                "a second look is given `keep`, to leave patches out, or `hidden` and `by`, to replace them"
            )
        if self.keep is not None and not self.keep.shape[1]:
            raise ValueError("a second look that leaves out every patch has nothing to see")

    @property
    def how(self) -> str:
        """As ``ModelSpec.hides`` calls it."""
        return "replace" if self.keep is None else "leave out"


class SecondLook(NamedTuple):
    """The same pictures with patches hidden.

    tokens: class tokens, then the patches of ``Hole.keep`` in that order (B, C + V, D); or all patches (B, C + P, D).
    seen: (B,) int64, of how many patches of each picture the content was read.
    """

    tokens: Tokens
    seen: Tensor


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """How bytes become what a model reads, for each of the three colours: (x * factor - mean) / std.

    The float32 operations are the same, in the same order, for one picture and a batch, and on every device.
    """

    mean: Sequence[float]
    std: Sequence[float]
    factor: float

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, ...) uint8 -> float32 on the same device, which is not waited for."""
        numbers = torch.tensor([self.mean, self.std], dtype=torch.float32) * torch.tensor(
            1 / self.factor, dtype=torch.float32
        )
        mean, std = numbers.to(pixels.device, non_blocking=True).view(2, 3, *[1] * (pixels.ndim - 2))
        return pixels.float().sub_(mean).div_(std)


class RawPixels:
    """A picture before it is normalised: a quarter of the bytes, for all the way to the device.

    bytes: (3, height, width) uint8, of a clip (3, T, height, width). erased: (left, top, right, bottom) of what becomes
    the mean colour, which no byte says exactly; (0, 0, 0, 0) is nothing. paint: in place of bytes, what fills an array
    (3, height, width) uint8 of ``shape`` with them, for a picture that is painted right where its batch lies.
    """

    __slots__ = ("_bytes", "erased", "normalise", "paint", "shape")

    def __init__(
        self, bytes: Tensor | None, normalise: Normalise, erased: tuple[int, int, int, int] = (0, 0, 0, 0), *,
        paint: Callable[[NDArray[np.uint8]], None] | None = None, shape: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self._bytes, self.normalise, self.erased, self.paint = bytes, normalise, erased, paint
        self.shape = tuple(bytes.shape) if bytes is not None else shape

    @property
    def bytes(self) -> Tensor:
        """What it was made of; of one with ``paint`` another tensor each time."""
        if self._bytes is not None:
            return self._bytes
        assert self.paint is not None
        out = np.empty(self.shape, np.uint8)
        self.paint(out)
        return torch.from_numpy(out)

    def _replace(self, **changed: Any) -> RawPixels:
        given: dict[str, Any] = {"normalise": self.normalise, "erased": self.erased, **changed}
        return RawPixels(**(given if "bytes" in given else {"bytes": self.bytes, **given}))

    def __reduce__(self) -> tuple[Any, ...]:
        return RawPixels, (self.bytes, self.normalise, self.erased)

    def normalised(self) -> Tensor:
        """The same shape in float32, as the model reads it."""
        pixels, (left, top, right, bottom) = self.normalise(self.bytes[None])[0], self.erased
        pixels[..., top:bottom, left:right] = 0
        return pixels


Pixels = Tensor | RawPixels
"""One picture as a transform makes it; a tensor (3, height, width) is float32, normalised already."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's samples, as the collator makes them.

    pixels: (B, 3, height, width) float32, normalised; (B, 3, T, height, width) for video. uint8 until ``to`` brings
        them to the device, where the transform gives ``RawPixels``: all of ours do.
    normalise: of pixels that are uint8; else None. erased: (B, 4) int64, where some of these have been erased, see
        ``RawPixels``; else None.
    pixel_mask: (B, height, width) bool, True where a picture is; None when every picture fills its rectangle. A
        picture lies in the upper left corner.
    ids: (B, L) int64 token ids, padded; mask: (B, L) bool, True = real token; both None in a run without words.
    image_id: (B,) int64; equal ids mean the same picture. caption_id: (B,) int64; equal ids mean the same
        words, None without. Neither is ever a negative of its equal.
    masked: the text with hidden words, when the run asks for it.
    targets: what one task needs beside (answers, labels, boxes), by the name of the record's field.
    keys: a name for each sample, for messages. skipped: pictures that could not be read and were replaced.
    """

    pixels: Tensor
    image_id: Tensor
    ids: Tensor | None = None
    mask: Tensor | None = None
    caption_id: Tensor | None = None
    masked: MaskedText | None = None
    pixel_mask: Tensor | None = None
    normalise: Normalise | None = None
    erased: Tensor | None = None
    targets: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on a device, as models read it: pixels that travelled as uint8 are normalised there."""
        return self._each(lambda x: x.to(device, non_blocking=non_blocking)).normalised()

    def normalised(self) -> Batch:
        """With pixels that are float32: the mean colour, exactly 0, where nothing is and what was erased."""
        if self.normalise is None or self.pixels.dtype != torch.uint8:
            return self
        pixels = self.normalise(self.pixels)
        if self.pixel_mask is not None:
            pixels.masked_fill_(~self.pixel_mask[:, None], 0)
        if self.erased is not None:
            left, top, right, bottom = self.erased.T[..., None]
            y, x = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
            down, across = (top <= y) & (y < bottom), (left <= x) & (x < right)
            erased = (down[:, :, None] & across[:, None]).view(len(pixels), *[1] * (pixels.ndim - 3), len(y), len(x))
            pixels.masked_fill_(erased, 0)
        return replace(self, pixels=pixels, normalise=None, erased=None)

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU copies from by itself, so that nobody waits; torch's loader calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in found.items() if isinstance(value, Tensor)}
        masked = self.masked and self.masked.each(change)
        targets = {name: _changed(value, change) for name, value in self.targets.items()}
        return replace(self, **changed, masked=masked, targets=targets)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A target with its tensors changed, those of a list too."""
    if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
        return [_changed(one, change) for one in value]
    return change(value) if isinstance(value, Tensor) else value


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model offers, for heads and evaluators to build on.

    image_width, text_width, fused_width: D of each kind of token. embed_dim: E, or 0 when the model has no
    joint space. fuses: whether ``fuse`` exists. vocab_size: V, or 0 when the model reads pictures alone.

    patch: pixels along each axis of a patch, (height, width) or (frames, height, width); empty where image tokens are
    no patches. Image tokens are ``class_tokens`` that are none, then the patches of the grid, row-major. layers: names
    of the tokens that ``image_layers`` gives, in order. hides: how a second look may hide patches: "leave out",
    "replace" (see ``Hole``). pooling: "first" where the first of the class tokens stands for the picture, if there is
    one, or "mean": the mean of the patches does. unit: what must divide the sides of a picture; empty = the patch. Of
    towers of others, where it is smaller, the last patches reach beyond the picture. layer_patches, layer_widths: of
    each of ``layers``, where their tokens are of another size; empty = as image tokens. normalise, resample: how the
    tower's weights were trained to read pictures; None and "" where it does not say.
    """

    image_width: int
    text_width: int
    fused_width: int
    embed_dim: int
    vocab_size: int
    fuses: bool
    patch: tuple[int, ...] = ()
    class_tokens: int = 0
    layers: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    pooling: Literal["first", "mean"] = "first"
    unit: tuple[int, ...] = ()
    layer_patches: tuple[tuple[int, ...], ...] = ()
    layer_widths: tuple[int, ...] = ()
    normalise: Normalise | None = None
    resample: str = ""

    def grid(self, size: Sequence[int], layer: str | None = None) -> tuple[int, ...]:
        """How many patches a picture of so many pixels has along each axis; UserError where they do not fit.

        layer: of the tokens after this one of ``layers``; None = of the image tokens.
        """
        patch = self.layer_patch(layer)
        if not self.patch:
            raise UserError("the image tokens of this model are no patches: it has no grid")
        if not self.unit:
            return grid_of(size, patch)
        grid_of(size, self.unit)
        return tuple(-(-side // p) for side, p in zip(size, patch, strict=True))

    @property
    def pool(self) -> tuple[int, bool]:
        """What ``nn.pool.pooled`` takes beside image tokens: how many class tokens, and whether the patches' mean."""
        return self.class_tokens, self.pooling == "mean"

    def layer_patch(self, layer: str | None) -> tuple[int, ...]:
        """Pixels along each axis of one token after a layer; None = of an image token."""
        at = None if layer is None or not self.layer_patches else self.layers.index(layer)
        return self.patch if at is None else self.layer_patches[at]

    def layer_width(self, layer: str | None) -> int:
        """D of the tokens after a layer; None = of image tokens."""
        at = None if layer is None or not self.layer_widths else self.layers.index(layer)
        return self.image_width if at is None else self.layer_widths[at]


Count = int | float | Tensor
"""How many items a mean is over: a number, or a float32 scalar tensor where only the device knows."""
Log = Tensor | float | tuple[Tensor | float, Count]
"""A number to report, a mean over what the loss is over; or (mean, count) where it is over something else."""


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What one objective says of one batch.

    loss: float32 scalar, a mean over ``count`` valid items; finite where there are none.
    parts: in their place, a loss with several denominators (boxes and their classes): {name: (loss, count)}, each as
        above and weighted by the head, always the same names. ``loss`` then is their sum, and ``count`` None.
    logs: detached scalars by name, means over the items of the loss (with parts: over the samples), or pairs (mean,
        count) where they are over something else.
    carry: detached tensors for ``after_step``.
    """

    loss: Tensor = None  # type: ignore[assignment]  # never None in the end
    count: Count | None = None
    parts: Mapping[str, tuple[Tensor, Count]] = field(default_factory=dict)
    logs: Mapping[str, Log] = field(default_factory=dict)
    carry: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        alone = (self.loss is not None, self.count is not None)
        if alone != (not self.parts,) * 2:
            raise ValueError("a head gives `loss` and `count`, or `parts`: {name: (loss, count)}, and not both")
        if self.parts:
            object.__setattr__(self, "loss", torch.stack([loss for loss, _ in self.parts.values()]).sum())
        else:
            object.__setattr__(self, "parts", {"": (self.loss, self.count)})


@dataclass(frozen=True, kw_only=True)
class TaskOutput:
    """What a task says of one rank's micro-batch.

    loss: what to minimise. The sum over the micro-batches of a step of its mean over the ranks is the loss of one
        process with the joined batch.
    losses: what each head adds to it before its weight, and each part of a head that has several ("head.part").
    logs: what the heads log, as "head/name".
    counts: how many items each loss counted, by head, or by "head.part".
    means: what to report, (mean, count) by the name in the log: "losses.head", "losses.head.part", "head.name".
    carry: what the heads want back after the step.
    """

    loss: Tensor
    losses: Mapping[str, Tensor]
    logs: Mapping[str, Tensor | float]
    counts: Mapping[str, Count]
    means: Mapping[str, tuple[Tensor | float, Count]]
    carry: Mapping[str, Mapping[str, Tensor]]


def grid_of(size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """How many patches fit along each axis; a UserError when they do not fit evenly."""
    shape, unit = "x".join(map(str, size)), "x".join(map(str, patch))
    if len(size) != len(patch):
        raise UserError(f"an input of {shape} has {len(size)} axes, and the patch {unit} cuts {len(patch)}")
    if any(s % p or s < p for s, p in zip(size, patch, strict=True)):
        near = "x".join(str(max(1, -(-s // p)) * p) for s, p in zip(size, patch, strict=True))
        raise UserError(
            f"image size {shape} is not a multiple of the patch {unit}: choose a size that it divides, such as {near}"
        )
    return tuple(s // p for s, p in zip(size, patch, strict=True))
