"""The contract of an image tower that comes from another library, and what all of these share.

Whatever a network's last feature map looks like (a sequence after some tokens that are no patches, B x H x W x C, or
B x C x H x W), out come tokens (B, N, D): those that are none first, then the map row by row. The grid is the map's own
height and width, and what the tower says of it beforehand is compared with it in each pass. Pictures are read with the
mean, the deviation and the resampling that the network was trained with: the tower says them, a run takes them from it,
and they are saved with the model.

Batch norms keep the statistics that they came with (as in detection since Faster R-CNN; DETR, section 4), their weights
and biases learn: so that several processes, accumulation and chunks of a batch change nothing. Left out: towers that
read pictures of unequal sizes with a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmkit.errors import UserError
from mmkit.types import Normalise, Tokens, grid_of

log = logging.getLogger(__name__)

Layout = Literal["NHWC", "NCHW"]
Side2 = tuple[int, int]
FAILURES = (AssertionError, RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)
"""What networks raise where a picture's size does not suit them."""
TRIED = 24
"""So many sizes above are tried for the next one that fits."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer whose map can be asked for. patch: pixels along each axis of one of its tokens; width: D of these."""

    name: str
    patch: Side2
    width: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a library says of its network.

    width: D. patch: pixels of the last map's cells. prefix: how many tokens before it are no patches. pooling: "first"
    where the first of these stands for the picture, else "mean". layout: of the last map, if it is no
    sequence. layers: from below, whose maps are NCHW, or sequences with the prefix.
    """

    width: int
    patch: Side2
    prefix: int
    pooling: Literal["first", "mean"]
    layout: Layout
    layers: tuple[Layer, ...]
    normalise: Normalise
    resample: str


class Backbone(nn.Module):
    """A network ``net`` of another library as the image tower of any model, for pictures of ``image_size`` pixels.

    spec: its name, "timm:NAME" or "torchvision:NAME". ``unit``: what must divide the sides of a picture. ``any_size``:
    whether it reads other sizes than ``image_size`` as it is; ``resize_`` makes it read another.
    """

    net: nn.Module

    def __init__(self, spec: str, image_size: Side2) -> None:
        super().__init__()
        self.name = spec
        self.image_size = image_size
        self.net = self.made(image_size)
        self.form = self.described()
        self.width = self.form.width
        self.unit, self.any_size = self._sizes()
        self.train()

    # ---- what each library does --------------------------------------------------------------------------------

    def made(self, size: Side2) -> nn.Module:
        """The network with random weights."""
        raise NotImplementedError

    def described(self) -> Form:
        """What it is like."""
        raise NotImplementedError

    def look(self, pixels: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The last map after the last norm, and the maps of these layers: (B, prefix + N, D), or (B, D, H, W)."""
        raise NotImplementedError

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint of this network, of any picture size, by the names and shapes that it has here."""
        raise NotImplementedError

    def logits(self, pixels: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, classes) of the network's own training, with the pooling of its family."""
        self.check((int(pixels.shape[2]), int(pixels.shape[3])))
        return cast(Tensor, self.net(pixels))

    def depths(self) -> dict[str, int]:
        """For each parameter by its name here the group it is in, from 0 at the picture: for rates that decay by layer.

        UserError where its library says no groups of this family.
        """
        raise UserError(f"{self.name}: its library says no groups of its layers, for rates that decay by layer")

    # ---- what all share ----------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[str, ...]:
        """The names that ``intermediates`` knows, in order."""
        return tuple(layer.name for layer in self.form.layers)

    @property
    def sight(self) -> dict[str, Any]:
        """What ``ModelSpec`` says of the image tokens, for a model with this tower."""
        form = self.form
        return {
            "patch": form.patch, "class_tokens": form.prefix, "layers": self.layers, "pooling": form.pooling,
            "unit": self.unit, "layer_patches": tuple(layer.patch for layer in form.layers),
            "layer_widths": tuple(layer.width for layer in form.layers), "normalise": form.normalise,
            "resample": form.resample,
        }  # fmt: skip

    def forward(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, height, width) float, normalised -> (B, prefix + N, D).

        UserError for a size that does not fit, and where there is a ``pixel_mask``: pictures must be of one size.
        """
        return self.intermediates(pixels, (), pixel_mask)[0]

    def intermediates(
        self, pixels: Tensor, names: Collection[str], pixel_mask: Tensor | None = None
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """The output, and the tokens (B, N, D of the layer) after the layers ``names``; UserError for an unknown one.

        Those of a network whose maps shrink have grids and widths of their own, see ``ModelSpec.grid``.
        """
        if unknown := ", ".join(sorted(set(names) - set(self.layers))):
            raise UserError(f"{self.name}: no such layer: {unknown}; there are: {', '.join(self.layers) or 'none'}")
        if pixel_mask is not None:
            raise UserError(f"{self.name} reads pictures of one size; use a transform that makes them equal")
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        self.check(size)
        last, maps = self.look(pixels, names)
        return (
            Tokens(self._rows(last, self.form.layout, self.form.patch, size)),
            {
                layer.name: Tokens(self._rows(maps[layer.name], "NCHW", layer.patch, size))
                for layer in self.form.layers if layer.name in maps
            },
        )  # fmt: skip

    def check(self, size: Side2) -> None:
        """UserError for a picture of so many pixels, (height, width), that this tower does not read as it is."""
        grid_of(size, self.unit)
        if not self.any_size and size != self.image_size:
            raise UserError(
                f"{self.name} was made for pictures of {_by(self.image_size)} pixels, and these have {_by(size)}; load "
                f"it for them (--image-size {_by(size)}), or resize them"
            )

    def resize_(self, size: Side2) -> None:
        """Read pictures of this size from now on, in place; positions and windows' biases are resampled by its library.

        UserError where the network cannot.
        """
        if size == self.image_size:
            return
        old, device = self.net, next(self.parameters()).device
        state = {name: value.detach() for name, value in old.state_dict().items()}
        self.net = self.made(size)
        self.net.load_state_dict(self.fitted(state))
        self.net.requires_grad_(next(old.parameters()).requires_grad)
        self.net.to(device).train(old.training)
        self.image_size = size
        self.unit, self.any_size = self._sizes()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but that batch norms keep their statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _rows(self, x: Tensor, layout: Layout, patch: Side2, size: Side2) -> Tensor:
        """A map as tokens (B, N, D), row by row; RuntimeError where it has not the grid that was said."""
        high, wide = grid_up(size, patch)
        found: tuple[int, ...]
        wanted: tuple[int, ...]
        if x.ndim == 3:
            found, wanted = (x.shape[1],), (self.form.prefix + high * wide,)
        else:
            found, wanted = tuple(x.shape[1:3] if layout == "NHWC" else x.shape[2:4]), (high, wide)
            x = x.flatten(1, 2) if layout == "NHWC" else x.flatten(2).mT
        if found != wanted:
            raise RuntimeError(f"{self.name}: a picture of {_by(size)} has a map of {found}, and not {wanted}")
        return x

    def _sizes(self) -> tuple[Side2, bool]:
        """``unit`` and ``any_size``, found out without numbers; UserError where its own size does not fit."""
        own, patch = self.image_size, self.form.patch
        unit = self._embedded() or patch
        if not self._reads(own):
            raise UserError(f"{self.name}: reads no pictures of {_by(own)} pixels{self._nearest(unit)}")
        other = (own[0] + patch[0], own[1] + patch[1])
        if not self._reads(other):
            return unit, False
        rounds_up = self._embedded() is None and self._reads((2 * patch[0] + 1, 3 * patch[1] + 1))
        return ((1, 1) if rounds_up else unit), True

    def _embedded(self) -> Side2 | None:
        """The patch that cuts the picture, where the network has such a layer."""
        patch = getattr(getattr(self.net, "patch_embed", None), "patch_size", getattr(self.net, "patch_size", None))
        return None if patch is None else (patch, patch) if isinstance(patch, int) else tuple(patch)

    def _reads(self, size: Side2) -> bool:
        """Whether a picture of this size passes, with the grid that was said."""
        try:
            with without_numbers(self.net) as call:
                last, maps = call(lambda pixels: self.look(pixels, self.layers), size)
                rows = self._rows(last, self.form.layout, self.form.patch, size)
                for layer in self.form.layers:
                    self._rows(maps[layer.name], "NCHW", layer.patch, size)
        except FAILURES as error:
            log.debug("%s: %s: %s", self.name, _by(size), error)
            return False
        return rows.shape[2] == self.form.width

    def _nearest(self, unit: Side2) -> str:
        """The end of a refusal: the next larger size that fits."""
        start = tuple(side // u * u for side, u in zip(self.image_size, unit, strict=True))
        for step in range(1, TRIED + 1):
            size = cast(Side2, tuple(side + step * u for side, u in zip(start, unit, strict=True)))
            try:
                with torch.device("meta"):
                    self.net = self.made(size)
                if self._reads(size):
                    return f"; the next size that fits is {_by(size)}"
            except FAILURES:
                continue
        return ""


@contextmanager
def without_numbers(net: nn.Module) -> Iterator[Callable[[Callable[[Tensor], Any], Side2], Any]]:
    """Within, ``call(work, size)`` runs ``work`` on a picture, with tensors of ``net`` that have shapes alone."""
    training = [module for module in net.modules() if module.training]
    state = {name: value.to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}

    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.work: Callable[[Tensor], Any] = lambda pixels: pixels

        def forward(self, pixels: Tensor) -> Any:
            return self.work(pixels)

    looked = Looked()

    def call(work: Callable[[Tensor], Any], size: Side2) -> Any:
        looked.work = work
        with torch.no_grad():
            pixels = torch.empty(1, 3, *size, device="meta")
            return functional_call(looked, {f"net.{name}": value for name, value in state.items()}, (pixels,))

    net.eval()
    try:
        yield call
    finally:
        for module in training:
            module.training = True


def grid_up(size: Side2, patch: Side2) -> Side2:
    """How many cells of ``patch`` cover a picture."""
    return -(-size[0] // patch[0]), -(-size[1] // patch[1])


def _by(size: Side2) -> str:
    return f"{size[0]}x{size[1]}"
